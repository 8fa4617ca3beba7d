"""What a scan, a program and a draw take: protocols, so that no file below `models/` imports one.

Scanner         scans one pass               start, begin_row, step
ModelScanner    with weights of its own      what programs are recorded from
Passes          the passes of a scan         what the raster loop takes
Model           with its network             what is drawn from, guided, interpolated
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nextpixel.conditions import Condition
from nextpixel.likelihoods import Likelihood


class Scanner(Protocol):
    """Scans one pass over images (B, C, H, W), place by place in raster order.

    Its methods have no gradients: call them under `torch.no_grad()`.
    """

    @abstractmethod
    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> Any:
        """A cache for one scan over `batch` images of `size` (H, W) under the encoded condition h.

        It belongs to the caller and is never stored on a module. All work on h is done here, once per scan.
        """

    @abstractmethod
    def begin_row(self, cache: Any, x: Tensor, i: int) -> None:
        """Row clock: everything that row i takes from the finished rows of x, for all its columns at once."""

    @abstractmethod
    def step(self, cache: Any, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        """Pixel and channel clock: params (B, P) of place (i, j), exact for the channels up to c.

        Rows are begun in order, places stepped in raster order, and colour groups 0, 1, ... of a place in order; a step may
        be repeated. Where the likelihood couples the channels there is one colour group. The result is the cache's own tensor,
        which the next step overwrites.
        """

    def row_kind(self, i: int) -> int:
        """Rows i > 0 of one kind make the same calls of torch on the same memory of the cache: one program runs them."""
        return 0


class ModelScanner(Scanner, Protocol):
    """A scanner with weights of its own: a program copies them, and never writes to them."""

    shape: tuple[int, int, int]
    likelihood: Likelihood

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def buffers(self) -> Iterator[Tensor]: ...


class Passes(Protocol):
    """The passes of a scan: one over the places of x[:, :, ::s, ::s] for each stride s, from the coarsest to 1."""

    likelihood: Likelihood
    strides: tuple[int, ...]

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple[Scanner, Tensor | None]]:
        """For each pass its scanner, and that scanner's encoded condition.

        Each is made when its pass begins, and may read what the passes before it have chosen in x.
        """


class Model(Passes, Protocol):
    """What is drawn from: an image model with its parallel network, `nextpixel.models.base.AutoregressiveModel`."""

    name: str
    shape: tuple[int, int, int]
    levels: int
    condition: Condition | None

    @property
    def device(self) -> torch.device: ...
    def encode(self, x: Tensor) -> Tensor: ...
    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor: ...
    def encode_condition(self, cond: Any, batch: int, height: int, width: int) -> Tensor | None: ...
    def order(self, height: int, width: int) -> Tensor: ...
    def check_images(self, x: Tensor) -> Tensor: ...
    def check_size(self, size: tuple[int, int] | None) -> tuple[int, int]: ...
    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple[ModelScanner, Tensor | None]]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def buffers(self) -> Iterator[Tensor]: ...
