"""The scan on a GPU: the steps of a row captured once as a CUDA graph, and replayed for every row of its kind.

There the cost of a scan is the launching of some thousand small kernels a row, one after the other from Python; a graph launches
them together. Shapes and addresses are constant (`layers.grid`), a row's noise and symbols are copied in before and out after,
and nothing waits for the GPU inside a scan. The row clock, a few large products, stays as it is. The precision of products is
torch's setting (`torch.set_float32_matmul_precision`), or that of the weights, which may be bf16.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nextpixel.layers.pointwise import without_autocast
from nextpixel.likelihoods import Guided
from nextpixel.progress import Count, Progress
from nextpixel.scan.job import Request, Row
from nextpixel.scan.raster import Draw, Keep, chosen, scan_rows, visit

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
        self.row = Row.of(request)
        self.cache = part.start(batch, request.h, (self.height, self.width))
        self.steps: dict[tuple[bool, int], Callable[[], None]] = {}

    def run(self, report: Callable[[], None]) -> None:
        """Fill the images; tells when a row is launched."""
        for i in range(self.height):
            self.part.begin_row(self.cache, self.request.x, i)
            self.row.read(self.request, i)
            kept = chosen(self.coarser, self.stride, i, self.width)
            kind = len(kept) > 0, self.part.row_kind(i)
            if kind not in self.steps:
                self.steps[kind] = self.prepare(i, kept)
            self.steps[kind]()
            self.row.write(self.request, i)
            report()

    def prepare(self, i: int, kept: range) -> Callable[[], None]:
        """What runs the steps of rows of the same kind as i, of which a coarser pass has chosen the columns `kept`."""
        choose = Draw(self.request.law, self.row.noise, self.request.temperature)
        if self.row.known is not None:
            choose = Keep(self.row.known, choose)

        def places() -> None:
            for j in range(self.width):
                for c, params in visit(self.part, self.cache, self.row.image, i, j, j in kept, self.request.law):
                    self.row.symbols[:, c, 0, j] = choose(params, self.row.symbols, 0, j, c)

        return Replay(places, self.request.x.device)


@torch.inference_mode()
def scan(model: "AutoregressiveModel", request: Request, progress: Progress | None = None) -> None:
    """Fill `request.x` as `raster` with `Draw` does (and `Keep`, where symbols are known).

    Args:
        model: on a GPU; on a processor the same runs step by step.
        request: the images.
        progress: called with (rows launched, rows), over all passes.
    """
    images = request.twice() if isinstance(request.law, Guided) else request
    report = Count(progress, scan_rows(model.strides, images.x.shape[2]))
    passes = pairwise((None, *model.strides))
    with without_autocast(request.x):
        for (coarser, stride), (part, h) in zip(passes, model.parts(images.x, images.h), strict=True):
            GraphRows(part, images.on_grid(stride, h), coarser, stride).run(report)
    request.x.copy_(images.x[: len(request.x)])
