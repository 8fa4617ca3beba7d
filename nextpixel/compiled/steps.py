"""The steps of a scan as programs, place by place: for choosers that stand outside of them, as those of the codec.

`nextpixel.compiled.scan` runs whole rows, draws included. Here the raster loop (`nextpixel.raster`) stays as it is, with any
chooser, and what a part computes between two choices is a program. An image's numbers do not depend on those beside it.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nextpixel.compiled.lines import AT, Block
from nextpixel.compiled.recorder import Recorder
from nextpixel.compiled.rows import Recording, memory_for
from nextpixel.recording import NotRecordableError

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel


class Stepped:
    """A model as `nextpixel.raster.raster` sees it, whose steps are programs.

    Args:
        model: on the processor, in float32 or float64.

    Example:
        >>> import nextpixel
        >>> from nextpixel.raster import Score, raster
        >>> model, x = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1).eval(), torch.ones(2, 1, 4, 4).long()
        >>> score = Score(model.likelihood)
        >>> _ = raster(Stepped(model), x, score)
        >>> torch.allclose(-score.nats.sum((1, 2, 3)).float(), model.log_prob(x))
        True
    """

    def __init__(self, model: "AutoregressiveModel") -> None:
        self.model, self.likelihood, self.strides = model, model.likelihood, model.strides

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple["_Part", Tensor | None]]:
        for part, part_h in self.model.parts(x, h):
            yield _Part(part), part_h


class _Part:
    """What scans a pass."""

    def __init__(self, part: "AutoregressiveModel") -> None:
        self.part = part

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> "_Steps":
        return _Steps(self.part, batch, h, size or self.part.shape[1:])

    def begin_row(self, cache: "_Steps", x: Tensor, i: int) -> None:
        cache.begin_row(x, i)

    def step(self, cache: "_Steps", x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        return cache.step(x, i, j, c)


class _Steps:
    """The programs of a pass: the row clock of each kind of row, and its steps, column by column and colour by colour.

    Raises:
        NotRecordableError: the part asks for something that has no line.
    """

    def __init__(self, part: "AutoregressiveModel", batch: int, h: Tensor | None, size: tuple[int, int]) -> None:
        (height, width), colours = size, part.likelihood.colours
        self.colours, self.kinds = colours, [part.row_kind(i) for i in range(height)]
        memory = memory_for(part)
        self.symbols = torch.zeros(batch, part.shape[0], 1, width, dtype=torch.long)
        self.params = torch.zeros(batch, part.likelihood.params, dtype=memory.dtype)
        memory.write(self.symbols)
        cache = part.start(batch, h, size)
        recorder, recording = Recorder(memory, self.symbols.expand(-1, -1, height, -1)), Recording(memory)

        def place(i: int, j: int) -> None:
            for c in range(colours):
                params = part.step(cache, recorder.symbols, i, j, c)
                with torch._C.DisableTorchFunction():
                    recorder.emit("copy", self.params, params)

        for i, kind in enumerate(self.kinds):
            recording.clock(recorder, part, cache, i, (i == 0, kind))
            if (False, kind) not in recording.steps:
                blocks = recorder.record_columns(partial(place, i), i, width)
                recording.steps[False, kind] = [self._by_step(block) for block in blocks]
        self.clocks, self.steps = recording.close()

    def _by_step(self, block: Block) -> Block:
        """The lines of some columns, as those of their steps: each ends with that which writes the params."""
        ends = np.flatnonzero(block.table[:, AT["out"]] == self.params.data_ptr()) + 1
        if len(ends) != (len(block.bounds) - 1) * self.colours or not np.isin(block.bounds[1:], ends).all():
            raise NotRecordableError("steps whose params are no line of their own")
        return replace(block, first=block.first * self.colours, bounds=(0, *ends.tolist()))

    def begin_row(self, x: Tensor, i: int) -> None:
        """Run the row clock, which reads the symbols of the row before."""
        if i:
            self.symbols.copy_(x[:, :, i - 1 : i])
        self.clocks((i == 0, self.kinds[i]), i)
        self.running = self.steps[False, self.kinds[i]]

    def step(self, x: Tensor, i: int, j: int, c: int) -> Tensor:
        """The params of a place (B, P), in memory that the next step writes again."""
        if c:
            self.symbols[:, c - 1, 0, j] = x[:, c - 1, i, j]
        elif j:
            self.symbols[:, :, 0, j - 1] = x[:, :, i, j - 1]
        self.running.column(j * self.colours + c)
        return self.params
