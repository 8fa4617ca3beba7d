"""The one loop over passes, rows, pixels and channels. Sampling, completion and scoring differ only in how a symbol is chosen.

    raster(model, x, choose)
        for stride, (scanner, h) in model.strides, model.parts:  one pass, over the places of x[:, :, ::stride, ::stride]
            for row i:         scanner.begin_row
              for column j:
                for channel c: params = scanner.step;  x[:, c, i, j] = choose(params, x, i, j, c)

Most models are their own scanner and make one pass, in raster order. A multi-scale model has a scanner for each grid, from the
coarsest; what a pass has chosen stays, and the later passes only read it. `Naive`, which runs a whole forward pass for every
place, is the reference that the cached scan is tested against.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nextpixel.layers.pointwise import without_autocast
from nextpixel.likelihoods import Likelihood
from nextpixel.progress import Count, Progress
from nextpixel.scan.protocols import Model, Passes, Scanner

Choose = Callable[[Tensor, Tensor, int, int, int], Tensor]


@torch.inference_mode()
def raster(model: Passes, x: Tensor, choose: Choose, h: Tensor | None = None, progress: Progress | None = None) -> Tensor:
    """Visit every place of x (B, C, H, W) int64 in the model's order, fill it with what `choose` returns, and return x.

    Args:
        model: what gives the parameters of a place from all earlier places.
        x: changed in place; its symbols are read only where they are earlier than the current place, or by `choose`.
        choose: called with (params (B, P), x, i, j, c), returns the symbols (B,) of channel c at place (i, j).
        h: the encoded condition, from `model.encode_condition`.
        progress: called after each row of each pass with (rows finished, rows), over all passes.

    A caller's autocast has no effect: a scan computes in the precision of the weights.

    Example (how likely is each symbol of a given image, place by place):
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1).eval()
        >>> score = Score(model.likelihood)
        >>> _ = raster(model, torch.ones(2, 1, 4, 4, dtype=torch.long), score)
        >>> score.nats.shape
        torch.Size([2, 1, 4, 4])
    """
    with without_autocast(x):
        return _raster(model, x, choose, h, Count(progress, scan_rows(model.strides, x.shape[2])))


def _raster(model: Passes, x: Tensor, choose: Choose, h: Tensor | None, report: Count) -> Tensor:
    batch = x.shape[0]
    for coarser, stride, scanner, of_pass in passes(model, x, h):
        view = x[:, :, ::stride, ::stride]
        height, width = view.shape[2:]
        cache = scanner.start(batch, of_pass, (height, width))
        for i in range(height):
            scanner.begin_row(cache, view, i)
            earlier = chosen(coarser, stride, i, width)
            for j in range(width):
                for c, params in visit(scanner, cache, view, i, j, j in earlier, model.likelihood):
                    x[:, c, i * stride, j * stride] = choose(params, x, i * stride, j * stride, c)
            report()
    return x


def passes(model: Passes, x: Tensor, h: Tensor | None) -> Iterator[tuple[int | None, int, Any, Tensor | None]]:
    """The strides of the pass before, if any, and of each pass, its scanner, and the scanner's encoded condition."""
    for (coarser, stride), scanner_and_h in zip(pairwise((None, *model.strides)), model.parts(x, h), strict=True):
        yield coarser, stride, *scanner_and_h


def scan_rows(strides: tuple[int, ...], height: int) -> int:
    """Rows of all passes over images of this height.

    Example:
        >>> scan_rows((4, 2, 1), 9)
        17
    """
    return sum(-(-height // stride) for stride in strides)


def chosen(coarser: int | None, stride: int, i: int, width: int) -> range:
    """The columns of row i on the grid of this stride, whose symbols the pass before has chosen, on the grid of stride `coarser`.

    Example:
        >>> chosen(coarser=4, stride=2, i=2, width=5), len(chosen(coarser=4, stride=2, i=1, width=5))
        (range(0, 5, 2), 0)
    """
    return range(0, width, coarser // stride) if coarser and i * stride % coarser == 0 else range(0)


def visit(
    scanner: Scanner, cache: Any, x: Tensor, i: int, j: int, is_chosen: bool, likelihood: Likelihood
) -> Iterator[tuple[int, Tensor]]:
    """The steps of one place: yields each channel c with its params; the caller writes the symbol to x before the next one."""
    params = scanner.step(cache, x, i, j)
    if is_chosen:
        # By a coarser pass: the symbol stays, but the layers need the column for the places after it.
        for c in range(1, likelihood.colours):
            scanner.step(cache, x, i, j, c)
        return
    for c in range(likelihood.channels):
        if likelihood.colours > 1 and c > 0:
            params = scanner.step(cache, x, i, j, c)
        yield c, params


class Draw:
    """Choose by noise: one number uniform in [0, 1) per place and channel, so that equal noise gives equal images.

    Args:
        likelihood: the distribution of a place.
        noise: (B, C, H, W).
        temperature: divides the logits; 1 is the model itself.
    """

    def __init__(self, likelihood: Likelihood, noise: Tensor, temperature: float = 1.0) -> None:
        self.likelihood, self.temperature = likelihood, temperature
        self.clock = likelihood.colours > 1
        self.width, self.channels = noise.shape[3], noise.shape[1]
        # One tensor per place and channel: taking it from the whole costs as much as a step's arithmetic.
        self.noise = noise.permute(2, 3, 1, 0).flatten(0, 2).contiguous().unbind(0)

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        if c == 0 or self.clock:  # the other channels of a place have the same params
            self.place, self.symbols = self.likelihood.at(params), x[:, :, i, j]
        noise = self.noise[(i * self.width + j) * self.channels + c]
        return self.place.draw(self.symbols, c, noise, self.temperature)


class Keep:
    """Keep the known places as they are in x and choose the others by `otherwise`.

    Args:
        known: (B, C, H, W) bool.
        otherwise: the chooser of the unknown places.
    """

    def __init__(self, known: Tensor, otherwise: Choose) -> None:
        self.known, self.otherwise = known, otherwise

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        return torch.where(self.known[:, c, i, j], x[:, c, i, j], self.otherwise(params, x, i, j, c))


class Score:
    """Keep every symbol and note its cost.

    Attributes:
        nats: after the scan, -log p of every symbol given all earlier ones, (B, C, H, W); its sum is -log p(x).
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
        self._nats: Tensor | None = None

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        if self._nats is None:
            self._nats = torch.full(x.shape, torch.nan, dtype=torch.float64, device=x.device)
        symbol = x[:, c, i, j]
        # In float64, where a probability may be as small as exp(-700) before its logarithm is lost.
        pmf = self.likelihood.pmf(params.double(), x[:, :, i, j], c)
        self._nats[:, c, i, j] = -pmf.log().gather(1, symbol[:, None]).squeeze(1)
        return symbol

    @property
    def nats(self) -> Tensor:
        if self._nats is None:
            raise ValueError("Score has no nats before the scan: pass it to raster() first")
        return self._nats.clone()  # which, unlike what a scan has made, may take part in a gradient


class Naive:
    """A model scanned without a cache: one whole forward pass for every place. Slow, simple, and right by definition."""

    def __init__(self, model: Model) -> None:
        self.model, self.likelihood, self.strides = model, model.likelihood, model.strides

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple[Scanner, Tensor | None]]:
        for stride in self.strides:
            yield _WholePasses(self.model, x, stride), h


class _WholePasses(Scanner):
    """A scanner of `Naive`: whatever the stride, the whole image goes through the whole network."""

    def __init__(self, model: Model, x: Tensor, stride: int) -> None:
        self.model, self.x, self.stride = model, x, stride

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> Any:
        return h

    def begin_row(self, cache: Any, x: Tensor, i: int) -> None:
        """A forward pass has no row clock."""

    def step(self, cache: Any, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        return self.model.network(self.model.encode(self.x), cache)[:, :, i * self.stride, j * self.stride]
