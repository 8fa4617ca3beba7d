"""The scan on a GPU: the steps of a row captured once as a CUDA graph, and replayed for every row of its kind.

There a scan costs the launch of some thousand small kernels per row, one after the other from Python; a graph launches them
together. Shapes and addresses are constant (`layers.grid`), a row's noise and symbols are copied in before and out after, and
nothing inside a scan waits for the GPU. The row clock, a few large products, is launched from Python. Products have the precision
of torch's setting (`torch.set_float32_matmul_precision`), or that of the weights, which may be bf16.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from nextpixel.layers.pointwise import without_autocast
from nextpixel.progress import Count, Progress
from nextpixel.scan.job import DrawJob, RowBuffer
from nextpixel.scan.protocols import Model, Scanner
from nextpixel.scan.raster import chosen, passes, scan_rows, visit


def captured(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function without arguments, captured as a CUDA graph; on a processor the function itself.

    Args:
        function: works on memory at fixed addresses, and may be run more than once.
        device: of that memory.
    """
    if device.type != "cuda":
        return function
    # Once outside of the capture: what the first call allocates (tables, the libraries' workspaces) is no part of the graph.
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        function()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class GraphRows:
    """One pass over some images.

    Args:
        scanner: of the pass.
        job: the images, on the grid of the pass.
        coarser, stride: of the pass before and of this one.
    """

    def __init__(self, scanner: Scanner, job: DrawJob, coarser: int | None = None, stride: int = 1) -> None:
        self.scanner, self.job, self.coarser, self.stride = scanner, job, coarser, stride
        batch, _, self.height, self.width = job.x.shape
        self.row = RowBuffer.of(job)
        self.cache = scanner.start(batch, job.h, (self.height, self.width))
        self.steps: dict[tuple[bool, int], Callable[[], None]] = {}

    def run(self, report: Callable[[], None]) -> None:
        """Fill the images; `report` is called when a row is launched."""
        for i in range(self.height):
            self.scanner.begin_row(self.cache, self.job.x, i)
            self.row.read(self.job, i)
            earlier = chosen(self.coarser, self.stride, i, self.width)
            kind = len(earlier) > 0, self.scanner.row_kind(i)
            if kind not in self.steps:
                self.steps[kind] = self.prepare(i, earlier)
            self.steps[kind]()
            self.row.write(self.job, i)
            report()

    def prepare(self, i: int, earlier: range) -> Callable[[], None]:
        """What runs the steps of rows of the same kind as i, of which a coarser pass has chosen the columns `earlier`."""
        choose = replace(self.job, noise=self.row.noise, known=self.row.known).chooser()

        def places() -> None:
            for j in range(self.width):
                for c, params in visit(self.scanner, self.cache, self.row.image, i, j, j in earlier, self.job.distribution):
                    self.row.symbols[:, c, 0, j] = choose(params, self.row.symbols, 0, j, c)

        return captured(places, self.job.x.device)


@torch.inference_mode()
def scan(model: Model, job: DrawJob, progress: Progress | None = None) -> None:
    """Fill `job.x` as `raster` does with the job's chooser.

    Args:
        model: on a GPU; on a processor the same runs step by step.
        job: the images.
        progress: called with (rows launched, rows), over all passes.
    """
    images = job.scanned()
    report = Count(progress, scan_rows(model.strides, images.x.shape[2]))
    with without_autocast(job.x):
        for coarser, stride, scanner, h in passes(model, images.x, images.h):
            GraphRows(scanner, images.on_grid(stride, h), coarser, stride).run(report)
    job.finish(images)
