"""What a scan is asked to draw, and parts of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nextpixel.likelihoods import Likelihood
from nextpixel.likelihoods.guided import twice, with_and_without


@dataclass(frozen=True)
class Request:
    """What is drawn.

    Args:
        x: (B, C, H, W) int64, filled in place.
        noise: (B, C, H, W) float64.
        known: (B, C, H, W) bool, the symbols to keep, or None.
        h: the encoded condition, or None.
        law: of a place; a `Guided` one scans every image twice.
        temperature: divides the logits.
    """

    x: Tensor
    noise: Tensor
    known: Tensor | None
    h: Tensor | None
    law: Likelihood
    temperature: float = 1.0

    def lanes(self, images: slice) -> "Request":
        """The same for some of the images."""
        return self._each(lambda t: t[images])

    def padded(self, images: int) -> "Request":
        """The same for so many images: copies of the first fill it up."""
        missing = images - len(self.x)
        return self._each(lambda t: torch.cat([t, t[:1].expand(missing, *t.shape[1:])])) if missing else self

    def twice(self) -> "Request":
        """The same, with every image once more without its condition."""
        return replace(self._each(twice), h=with_and_without(self.h))

    def on_grid(self, stride: int, h: Tensor | None) -> "Request":
        """The same for the places of a pass, under its own condition."""
        return replace(replace(self, h=None)._each(lambda t: t[:, :, ::stride, ::stride]), h=h)

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Request":
        parts = {name: getattr(self, name) for name in ("x", "noise", "known", "h")}
        return replace(self, **{name: None if tensor is None else function(tensor) for name, tensor in parts.items()})


@dataclass(frozen=True)
class Row:
    """One row of the images of a request, in memory that stays where it is, and for a scan stands for every row.

    Attributes:
        symbols: (B, C, 1, W) int64.
        noise: (B, C, 1, W) float64; each place and channel is one run of memory, as `Draw` wants it.
        known: (B, C, 1, W) bool, or None.
        height: rows of the images.
    """

    symbols: Tensor
    noise: Tensor
    known: Tensor | None
    height: int

    @classmethod
    def of(cls, request: Request) -> "Row":
        """Memory for the rows of a request."""
        batch, channels, height, width = request.x.shape
        known = None if request.known is None else torch.zeros_like(request.known[:, :, :1])
        noise = request.noise.new_zeros(width, channels, batch).permute(2, 1, 0).unsqueeze(2)
        return cls(torch.zeros_like(request.x[:, :, :1]), noise, known, height)

    @property
    def tensors(self) -> list[Tensor]:
        """All of it."""
        return [self.symbols, self.noise] if self.known is None else [self.symbols, self.noise, self.known]

    @property
    def image(self) -> Tensor:
        """(B, C, H, W), whose rows are all this one."""
        return self.symbols.expand(-1, -1, self.height, -1)

    def read(self, request: Request, i: int) -> None:
        """Take row i of a request."""
        self.symbols.copy_(request.x[:, :, i : i + 1])
        self.noise.copy_(request.noise[:, :, i : i + 1])
        if self.known is not None:
            self.known.copy_(request.known[:, :, i : i + 1])

    def write(self, request: Request, i: int) -> None:
        """Give its symbols to row i."""
        request.x[:, :, i : i + 1] = self.symbols
