"""The scan as programs: what `nextpixel.raster.raster` does step by step, a row at a time and on all cores.

    for each pass, for each row i:      begin[kind of i]()      the row clock
                                        steps[kind of i]()      all its places and channels, draws included

Images are cut into lanes that fit the processor's caches; each core scans its own, and nothing is exchanged between them.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nextpixel.compiled import kept
from nextpixel.compiled.request import Request
from nextpixel.compiled.rows import Rows
from nextpixel.likelihoods import Guided
from nextpixel.raster import Progress

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

# Images that a core scans side by side: as many rows as fill the tiles of a product, and no more than the caches hold.
LANES = 16


@torch.inference_mode()
def scan(model: "AutoregressiveModel", request: Request, progress: Progress | None = None) -> None:
    """Fill `request.x` as `raster` with `Draw` does (and `Keep`, where symbols are known).

    The images are the same but for rounding: a symbol differs where its noise is within a rounding error of a bound.

    Args:
        model: on the processor, in float32 or float64.
        request: the images.
        progress: called as by `raster`: with the number of rows that are finished in all images, over all passes.

    Raises:
        NotRecordableError: the model asks torch for something that programs do not do.
    """
    batch, threads = len(request.x), torch.get_num_threads()
    # As many pieces for one core as for another, and no longer than needed.
    lanes = -(-batch // (threads * -(-batch // (threads * LANES))))
    pieces = [slice(a, min(a + lanes, batch)) for a in range(0, batch, lanes)]
    cores, report = min(threads, len(pieces)), _Report(progress, len(pieces))
    # Unconditional models of one pass ask the same of every piece: recorded once, and copied for each core.
    shared = request.h is None and len(model.strides) == 1
    programs = kept.take(model, request.lanes(pieces[0]), cores) if shared else None
    rows = [None] * cores if programs is None else programs.rows
    if cores == 1:
        _scan_pieces(model, request, pieces, lanes, report, rows[0])
    else:
        try:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                work = [pool.submit(_scan_pieces, model, request, pieces[k::cores], lanes, report, rows[k]) for k in range(cores)]
                for piece in work:
                    piece.result()
        finally:
            torch.set_num_threads(threads)  # what threads that come later begin with
    if programs is not None:
        kept.put_back(model, programs)


@torch.inference_mode()
def _scan_pieces(
    model: "AutoregressiveModel", request: Request, pieces: list[slice], lanes: int, report: "_Report", rows: Rows | None
) -> None:
    """One core's work."""
    for piece in pieces:
        images = request.lanes(piece).padded(lanes)
        if isinstance(request.law, Guided):
            images = images.twice()
        if rows is not None:
            rows.run(images, report)
        else:
            passes = pairwise((None, *model.strides))
            for (coarser, stride), (part, h) in zip(passes, model.parts(images.x, images.h), strict=True):
                places = images.on_grid(stride, h)
                Rows(part, places, coarser, stride).run(places, report)
        request.x[piece] = images.x[: piece.stop - piece.start]


class _Report:
    """Progress of all pieces together: a row is finished when so many rows of pieces are."""

    def __init__(self, progress: Progress | None, pieces: int) -> None:
        self.progress, self.pieces, self.finished, self.lock = progress, pieces, 0, threading.Lock()

    def __call__(self) -> None:
        if self.progress is not None:
            with self.lock:
                self.finished += 1
                if self.finished % self.pieces == 0:
                    self.progress(self.finished // self.pieces)
