"""What is drawn, and one row of it in memory that does not move."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nextpixel.likelihoods import Guided, Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without
from nextpixel.scan.protocols import Model
from nextpixel.scan.raster import Choose, Draw, Keep


@dataclass(frozen=True)
class DrawJob:
    """Images to draw.

    Args:
        x: (B, C, H, W) int64, filled in place.
        noise: (B, C, H, W) float64, uniform in [0, 1).
        known: (B, C, H, W) bool, the symbols to keep, or None.
        h: the encoded condition, or None.
        distribution: of a place.
        temperature: divides the logits.
        owner: the model whose program cache serves the job, or None for the model that scans.
    """

    x: Tensor
    noise: Tensor
    known: Tensor | None
    h: Tensor | None
    distribution: Likelihood
    temperature: float = 1.0
    owner: Model | None = None

    def images(self, images: slice) -> "DrawJob":
        """The same for some of the images."""
        return self._each(lambda t: t[images])

    def padded(self, batch: int) -> "DrawJob":
        """The same for `batch` images: copies of the first fill it up."""
        missing = batch - len(self.x)
        return self._each(lambda t: torch.cat([t, t[:1].expand(missing, *t.shape[1:])])) if missing else self

    def scanned(self) -> "DrawJob":
        """The job that a scan runs: under guidance, a copy with every image once more without its condition."""
        if not isinstance(self.distribution, Guided):
            return self
        return replace(self._each(twice), h=with_and_without(self.h))

    def finish(self, scanned: "DrawJob") -> None:
        """Take the images of the job that was scanned."""
        if scanned is not self:
            self.x.copy_(scanned.x[: len(self.x)])

    def on_grid(self, stride: int, h: Tensor | None) -> "DrawJob":
        """The same for the places of a pass, under its own condition."""
        return replace(replace(self, h=None)._each(lambda t: t[:, :, ::stride, ::stride]), h=h)

    def chooser(self) -> Choose:
        """Draws by the noise, and keeps what is known."""
        draw = Draw(self.distribution, self.noise, self.temperature)
        return draw if self.known is None else Keep(self.known, draw)

    def _each(self, function: Callable[[Tensor], Tensor]) -> "DrawJob":
        tensors = {name: getattr(self, name) for name in ("x", "noise", "known", "h")}
        return replace(self, **{name: None if tensor is None else function(tensor) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class RowBuffer:
    """One row of the images of a job, at fixed addresses: what a program or a CUDA graph reads and writes for every row.

    Attributes:
        symbols: (B, C, 1, W) int64.
        noise: (B, C, 1, W) float64; each place and channel is one run of memory, as `Draw` requires.
        known: (B, C, 1, W) bool, or None.
        height: rows of the images.
    """

    symbols: Tensor
    noise: Tensor
    known: Tensor | None
    height: int

    @classmethod
    def of(cls, job: DrawJob) -> "RowBuffer":
        """Memory for the rows of a job."""
        batch, channels, height, width = job.x.shape
        known = None if job.known is None else torch.zeros_like(job.known[:, :, :1])
        noise = job.noise.new_zeros(width, channels, batch).permute(2, 1, 0).unsqueeze(2)
        return cls(torch.zeros_like(job.x[:, :, :1]), noise, known, height)

    @property
    def tensors(self) -> list[Tensor]:
        """All of it."""
        return [self.symbols, self.noise] if self.known is None else [self.symbols, self.noise, self.known]

    @property
    def image(self) -> Tensor:
        """(B, C, H, W), whose rows are all this one."""
        return self.symbols.expand(-1, -1, self.height, -1)

    def read(self, job: DrawJob, i: int) -> None:
        """Copy row i of a job into the buffer."""
        self.symbols.copy_(job.x[:, :, i : i + 1])
        self.noise.copy_(job.noise[:, :, i : i + 1])
        if self.known is not None:
            self.known.copy_(job.known[:, :, i : i + 1])

    def write(self, job: DrawJob, i: int) -> None:
        """Copy the symbols back to row i."""
        job.x[:, :, i : i + 1] = self.symbols
