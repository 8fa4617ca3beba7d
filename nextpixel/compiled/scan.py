"""The scan as programs: what `nextpixel.raster.raster` does step by step, a row at a time and on all cores.

    for each pass, for each row i:      begin[kind of i]()      the row clock
                                        steps[kind of i]()      all its places and channels, draws included

Images are cut into lanes that fit the processor's caches; each core scans its own, and nothing is exchanged between them.
"""

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nextpixel.compiled import kept
from nextpixel.compiled.pieces import Together, cut, on_cores
from nextpixel.compiled.request import Request
from nextpixel.compiled.rows import Rows
from nextpixel.layers.pointwise import without_autocast
from nextpixel.likelihoods import Guided
from nextpixel.progress import Count, Progress
from nextpixel.raster import scan_rows

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

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
