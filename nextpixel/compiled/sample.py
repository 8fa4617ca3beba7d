"""The scan as programs: what `nextpixel.scan.raster.raster` does step by step, a row at a time and on all cores.

    for each pass, for each row i:      begin[kind of i]()      the row clock
                                        steps[kind of i]()      all its places and channels, draws included

Images are cut into lanes that fit the processor's caches; each core scans its own, and nothing is exchanged between them but the
news of finished rows. A distribution without a draw instruction is drawn from between steps: these are programs all the same.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nextpixel.compiled import program_cache as kept
from nextpixel.compiled.row_programs import Rows
from nextpixel.compiled.step_programs import Stepped
from nextpixel.layers.pointwise import without_autocast
from nextpixel.likelihoods import Guided
from nextpixel.progress import Count, Progress
from nextpixel.scan.evaluating import check_weights
from nextpixel.scan.job import Request
from nextpixel.scan.raster import Choose, Draw, Keep, raster, scan_rows

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel


def cut(batch: int, pieces: int) -> list[slice]:
    """As many images for one as for another, but for the last.

    Example:
        >>> [(piece.start, piece.stop) for piece in cut(10, 4)]
        [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    lanes = -(-batch // pieces)
    return [slice(start, min(start + lanes, batch)) for start in range(0, batch, lanes)]


class Together:
    """Progress of all pieces, each of which tells its own: a row is finished when so many rows of pieces are."""

    def __init__(self, progress: Progress | None, pieces: int) -> None:
        self.progress, self.pieces, self.finished, self.lock = progress, pieces, 0, threading.Lock()
        self.stopped = False

    def __call__(self, done: int, total: int) -> None:
        """A row of one of them is finished.

        Raises:
            CancelledError: another piece has failed, or Ctrl-C: the result of this one is no longer needed.
        """
        if self.stopped:
            raise CancelledError
        if self.progress is not None:
            with self.lock:
                self.finished += 1
                if self.finished % self.pieces == 0:
                    self.progress(self.finished // self.pieces, total)


def on_cores(work: Iterable[Callable[[], None]], cores: int, report: Together) -> None:
    """Do all of it, each on a core of its own as far as there are any; torch computes on one thread in each.

    Args:
        work: of each piece, which tells `report` of its rows.
        cores: that work at once.
        report: stops the pieces, at their next row, when one fails.
    """
    if cores == 1:
        for piece in work:
            piece()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for piece in wait([pool.submit(piece) for piece in work], return_when=FIRST_EXCEPTION).done:
                    piece.result()
            except BaseException:
                report.stopped = True  # before the pool waits for all of them
                raise
    finally:
        torch.set_num_threads(threads)  # what threads that come later begin with


def scan_steps(
    model: "AutoregressiveModel", pieces: Sequence[tuple[Tensor, Choose, Tensor | None]], progress: Progress | None = None
) -> None:
    """Fill images as `raster` does, by compiled steps, between which a chooser chooses the symbols.

    Args:
        model: on the processor, in float32 or float64.
        pieces: of the batch, each scanned on a core of its own: images, their chooser, and their encoded condition.
        progress: as of `scan`.

    Raises:
        NotRecordableError: the model calls something of torch that programs do not do.
    """
    report = Together(progress, len(pieces))
    work = [partial(raster, Stepped(model), x, choose, h, report) for x, choose, h in pieces]
    on_cores(work, len(pieces), report)


# Images that a core scans side by side: as many rows as fill the tiles of a product, and no more than the caches hold.
LANES = 16


@torch.inference_mode()
def scan(
    model: "AutoregressiveModel", request: Request, progress: Progress | None = None, owner: "AutoregressiveModel | None" = None
) -> None:
    """Fill `request.x` as `raster` with `Draw` does (and `Keep`, where symbols are known).

    The images are the same but for rounding: a symbol differs where its noise is within a rounding error of a bound.

    Args:
        model: on the processor, in float32 or float64.
        request: the images.
        progress: called as by `raster`: with (rows that are finished in all images, rows), over all passes.
        owner: who keeps the programs for the next call, by default the model.

    Raises:
        InputError: the weights are not finite, or a symbol has no probabilities.
        NotRecordableError: the model asks torch for something that programs do not do.
    """
    if request.law.draw_instruction(0, request.temperature) is None:
        _scan_and_choose(model, request, progress)
        return
    batch, threads = len(request.x), torch.get_num_threads()
    # As many pieces for one core as for another, and no longer than needed.
    pieces = cut(batch, threads * -(-batch // (threads * LANES)))
    lanes, cores, report = pieces[0].stop, min(threads, len(pieces)), Together(progress, len(pieces))
    # Unconditional models of one pass ask the same of every piece: recorded once, and copied for each core.
    shared = request.h is None and len(model.strides) == 1
    owner, weights = model if owner is None else owner, kept.identity(model)
    with without_autocast(request.x):
        programs = kept.take(owner, model, request.lanes(pieces[0]), cores, weights) if shared else None
    rows = [None] * cores if programs is None else programs.rows
    work = (partial(_scan_pieces, model, request, pieces[k::cores], lanes, report, rows[k]) for k in range(cores))
    on_cores(work, cores, report)
    if programs is not None:
        kept.put_back(owner, programs)


def _scan_and_choose(model: "AutoregressiveModel", request: Request, progress: Progress | None) -> None:
    """A scan without draw instructions."""
    check_weights(model)
    cores = cut(len(request.x), torch.get_num_threads())
    pieces = [request.lanes(piece) for piece in cores]
    if isinstance(request.law, Guided):
        pieces = [piece.twice() for piece in pieces]
    choosers = [Draw(piece.law, piece.noise, piece.temperature) for piece in pieces]
    choosers = [c if piece.known is None else Keep(piece.known, c) for c, piece in zip(choosers, pieces, strict=True)]
    scan_steps(model, [(piece.x, choose, piece.h) for piece, choose in zip(pieces, choosers, strict=True)], progress)
    for core, piece in zip(cores, pieces, strict=True):
        request.x[core] = piece.x[: core.stop - core.start]


@torch.inference_mode()
def _scan_pieces(
    model: "AutoregressiveModel", request: Request, pieces: list[slice], lanes: int, report: Together, rows: Rows | None
) -> None:
    """One core's work."""
    with without_autocast(request.x):
        for piece in pieces:
            images = request.lanes(piece).padded(lanes)
            if isinstance(request.law, Guided):
                images = images.twice()
            count = Count(report, scan_rows(model.strides, images.x.shape[2]))
            if rows is not None:
                rows.run(images, count)
            else:
                passes = pairwise((None, *model.strides))
                for (coarser, stride), (part, h) in zip(passes, model.parts(images.x, images.h), strict=True):
                    places = images.on_grid(stride, h)
                    Rows(part, places, coarser, stride).run(places, count)
            request.x[piece] = images.x[: piece.stop - piece.start]
