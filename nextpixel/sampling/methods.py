"""The ways to draw: each fills the images of a job, and all give the same images for the same noise.

naive          a whole forward pass for every place: the reference
cached         the raster loop, step by step
compiled       the same as programs on all cores, or as CUDA graphs on a GPU
fixed-point    forward passes until nothing changes
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from nextpixel.progress import Progress
from nextpixel.scan.fixed_point import as_places, fixed_point
from nextpixel.scan.job import DrawJob
from nextpixel.scan.protocols import Model, Passes
from nextpixel.scan.raster import Naive, raster

Method = Literal["cached", "compiled", "naive", "fixed-point"]


def _cached(model: Passes, job: DrawJob, progress: Progress) -> None:
    scanned = job.scanned()
    raster(model, scanned.x, scanned.chooser(), scanned.h, progress)
    job.finish(scanned)


def _naive(model: Model, job: DrawJob, progress: Progress) -> None:
    _cached(Naive(model), job, progress)


def _compiled(model: Model, job: DrawJob, progress: Progress) -> None:
    if model.device.type == "cuda":
        from nextpixel.compiled.cuda_graphs import scan
    else:
        from nextpixel.compiled.sample import scan  # here, because numba takes a second to import
    scan(model, job, progress)


def _fixed_point(model: Model, job: DrawJob, progress: Progress) -> None:
    scanned = job.scanned()
    known = None if scanned.known is None else as_places(scanned.known)
    choose = replace(scanned, noise=as_places(scanned.noise), known=known).chooser()
    fixed_point(model, scanned.x, choose, scanned.h, progress)
    job.finish(scanned)


METHODS: dict[Method, Callable[[Model, DrawJob, Progress], None]] = {
    "cached": _cached,
    "compiled": _compiled,
    "naive": _naive,
    "fixed-point": _fixed_point,
}
