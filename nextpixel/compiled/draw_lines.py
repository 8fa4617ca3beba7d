"""The lines of a row's places: those of the steps, and those that draw, which hold the operands of a law's rule."""

from typing import Any

import torch
from torch import Tensor

from nextpixel.compiled.lines import Block
from nextpixel.compiled.recorder import Recorder
from nextpixel.compiled.request import Request, Row
from nextpixel.likelihoods import DiscretizedLogisticMixture, Guided, Likelihood
from nextpixel.raster import Steppable, visit


def scratch_bytes(likelihood: Likelihood) -> int:
    """Memory that a draw needs for itself: a law's numbers, or four runs of a mixture's components."""
    mixtures = likelihood.mixtures if isinstance(likelihood, DiscretizedLogisticMixture) else 0
    return 8 * max(likelihood.levels, 4 * mixtures)


def draw_line(
    recorder: Recorder,
    likelihood: Likelihood,
    params: Tensor,
    symbols: Tensor,
    c: int,
    noise: Tensor,
    known: Tensor | None,
    temperature: float,
) -> None:
    """Record the draw of a place's channel c.

    Args:
        recorder: of the program.
        likelihood: a law that `nextpixel.compiled.why_not` has nothing against.
        params: (B, P).
        symbols: (B, C) int64 of the place; channel c is written.
        c: the channel.
        noise: (B,) float64.
        known: (B,) bool, where the symbol is kept, or None.
        temperature: divides the logits.
    """
    with torch._C.DisableTorchFunction():
        memory, guidance, images = recorder.memory, 1.0, len(symbols)
        if isinstance(likelihood, Guided):
            likelihood, guidance, images = likelihood.likelihood, likelihood.guidance, images // 2
        if isinstance(likelihood, DiscretizedLogisticMixture):
            operation, k, settings = "mixture", likelihood.mixtures, (likelihood.channels, likelihood.lowest_log_scale)
            out = (memory.write(symbols), (symbols.stride(0), symbols.stride(1)))
        else:
            operation, k, settings = "binary" if likelihood.levels == 2 else "categorical", 0, (temperature, guidance)
            params = params[:, c * likelihood.per_channel : (c + 1) * likelihood.per_channel]
            out = (memory.write(symbols[:, c]), (symbols.stride(0), 0))
        recorder.line(
            operation,
            images,
            likelihood.levels,
            c,
            k,
            out,
            (memory.read(params), (params.stride(0), 0)),
            (memory.read(noise), (noise.stride(0), memory.settings(*settings))),
            (0, (0, 0)) if known is None else (memory.read(known), (known.stride(0), 0)),
        )


def row_lines(recorder: Recorder, part: Steppable, cache: Any, row: Row, request: Request, i: int, kept: range) -> list[Block]:
    """The lines of all places of row i.

    Args:
        recorder: of the program.
        part, cache: what scans, and its memory.
        row: the images' row.
        request: its law and temperature.
        i: the row.
        kept: its columns whose symbols a coarser pass has chosen.

    Raises:
        NotRecordableError: `step` asks for something that has no line.
    """

    def place(j: int) -> None:
        for c, params in visit(part, cache, row.image, i, j, j in kept, request.law):
            known = None if row.known is None else row.known[:, c, 0, j]
            noise = row.noise[:, c, 0, j]
            draw_line(recorder, request.law, params, row.symbols[:, :, 0, j], c, noise, known, request.temperature)

    return recorder.record_columns(place, i, row.symbols.shape[3])
