"""The scan on a GPU: the steps of a row captured once as a CUDA graph, and replayed for every row of its kind.

There the cost of a scan is the launching of some thousand small kernels a row, one after the other from Python; a graph launches
them together. Shapes and addresses are constant (`nextpixel.grid`), a row's noise and symbols are copied in before and out after,
and nothing waits for the GPU inside a scan. The row clock, a few large products, stays as it is. The precision of products is
torch's setting (`torch.set_float32_matmul_precision`), or that of the weights, which may be bf16.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nextpixel.compiled.request import Request
from nextpixel.likelihoods import Guided
from nextpixel.raster import Draw, Keep, Progress, chosen, visit

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel


class Replay:
    """A function without arguments, as a CUDA graph; on a processor the function itself.

    Args:
        function: works on memory that stays where it is, and may be run more than once.
        device: where.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._run = function
        if device.type != "cuda":
            return
        # Once outside: what is made at the first call (tables, the libraries' own memory) is no part of the graph.
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            function()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        self._run = graph.replay

    def __call__(self) -> None:
        self._run()


class GraphRows:
    """One pass over some images.

    Args:
        part: what scans the pass.
        request: the images, on the grid of the pass.
        coarser, stride: of the pass before and of this one.
    """

    def __init__(self, part: "AutoregressiveModel", request: Request, coarser: int | None = None, stride: int = 1) -> None:
        self.part, self.request, self.coarser, self.stride = part, request, coarser, stride
        batch, _, self.height, self.width = request.x.shape
        self.symbols, self.noise = (torch.zeros_like(t[:, :, :1]) for t in (request.x, request.noise))
        self.known = None if request.known is None else torch.zeros_like(request.known[:, :, :1])
        self.choose = Draw(request.law, self.noise, request.temperature)
        # The chooser's own memory: one run for every place and channel, in the order of its list.
        self.noise_places = torch.stack(self.choose.noise)
        self.choose.noise = list(self.noise_places.unbind(0))
        if self.known is not None:
            self.choose = Keep(self.known, self.choose)
        self.cache = part.start(batch, request.h, (self.height, self.width))
        self.steps: dict[tuple[bool, int], Callable[[], None]] = {}

    def run(self, progress: Callable[[], None]) -> None:
        """Fill the images; tells when a row is launched."""
        for i in range(self.height):
            row = slice(i, i + 1)
            self.part.begin_row(self.cache, self.request.x, i)
            self.symbols.copy_(self.request.x[:, :, row])
            self.noise_places.copy_(self.request.noise[:, :, i].permute(2, 1, 0).flatten(0, 1))
            if self.known is not None:
                self.known.copy_(self.request.known[:, :, row])
            kind = len(chosen(self.coarser, self.stride, i, self.width)) > 0, self.part.row_kind(i)
            if kind not in self.steps:
                self.steps[kind] = self.prepare(i)
            self.steps[kind]()
            self.request.x[:, :, row] = self.symbols
            progress()

    def prepare(self, i: int) -> Callable[[], None]:
        """What runs the steps of rows of the same kind as i."""
        return Replay(lambda: self._visit(i), self.request.x.device)

    def _visit(self, i: int) -> None:
        """All places of a row of this kind; symbols, noise and what is known are those of the row's own memory."""
        rows: Tensor = self.symbols.expand(-1, -1, self.height, -1)
        kept = chosen(self.coarser, self.stride, i, self.width)
        for j in range(self.width):
            for c, params in visit(self.part, self.cache, rows, i, j, j in kept, self.request.law):
                self.symbols[:, c, 0, j] = self.choose(params, self.symbols, 0, j, c)


@torch.inference_mode()
def scan(
    model: "AutoregressiveModel",
    request: Request,
    progress: Progress | None = None,
    rows: type[GraphRows] = GraphRows,
) -> None:
    """Fill `request.x` as `raster` with `Draw` does (and `Keep`, where symbols are known).

    Args:
        model: on a GPU; on a processor the same runs step by step.
        request: the images.
        progress: called with the number of rows launched so far, over all passes.
        rows: how the steps of a row are run.
    """
    images = request.twice() if isinstance(request.law, Guided) else request
    launched = 0

    def report() -> None:
        nonlocal launched
        launched += 1
        if progress is not None:
            progress(launched)

    passes = pairwise((None, *model.strides))
    for (coarser, stride), (part, h) in zip(passes, model.parts(images.x, images.h), strict=True):
        rows(part, images.on_grid(stride, h), coarser, stride).run(report)
    request.x.copy_(images.x[: len(request.x)])
