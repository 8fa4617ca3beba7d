"""One pass over some images as programs: the row clock and the places of every kind of row, recorded from a part's methods."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nextpixel.compiled.columns import all_columns
from nextpixel.compiled.draw_lines import draw_line, scratch_bytes
from nextpixel.compiled.memory import restore
from nextpixel.compiled.program import PanelMemory, Program
from nextpixel.compiled.recorder import Recorder, RowIndex
from nextpixel.compiled.request import Request
from nextpixel.raster import chosen, visit

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel


class Rows:
    """One pass over some images, as programs.

    Args:
        part: what scans the pass.
        request: the images, on the grid of the pass.
        coarser, stride: of the pass before and of this one.
    """

    def __init__(self, part: "AutoregressiveModel", request: Request, coarser: int | None = None, stride: int = 1) -> None:
        batch, channels, self.height, self.width = request.x.shape
        dtype, law = next(part.parameters()).dtype, request.law
        self.coarser, self.stride, self.kinds = coarser, stride, [part.row_kind(i) for i in range(self.height)]
        self.memory = PanelMemory(dtype, scratch_bytes(law))
        self.symbols = torch.zeros(batch, channels, 1, self.width, dtype=torch.long)
        self.noise = torch.zeros(batch, channels, 1, self.width, dtype=torch.float64)
        self.known = None if request.known is None else torch.zeros(batch, channels, 1, self.width, dtype=torch.bool)
        for tensor in (self.symbols, self.noise, self.known):
            if tensor is not None:
                self.memory.write(tensor)
        cache = part.start(batch, request.h, (self.height, self.width))
        row = self.symbols.expand(-1, -1, self.height, -1)
        recorder = Recorder(self.memory, row)
        self.begin: dict[tuple[bool, int], Program] = {}
        self.loads: dict[tuple[bool, int], list[tuple[Tensor, Tensor, RowIndex]]] = {}
        self.steps: dict[tuple[bool, int], Program] = {}

        def place(i: int, j: int) -> None:
            for c, params in visit(part, cache, row, i, j, j in chosen(coarser, stride, i, self.width), law):
                known = None if self.known is None else self.known[:, c, 0, j]
                draw_line(
                    recorder,
                    law,
                    params,
                    self.symbols[:, :, 0, j],
                    c,
                    self.noise[:, c, 0, j],
                    known,
                    request.temperature,
                )

        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            if (first, kind) not in self.begin:
                lines = recorder.record(lambda i=i: part.begin_row(cache, row, RowIndex(i)), row=i - 1, place=False)
                self.begin[first, kind] = Program(lines, self.memory)
                self.loads[first, kind] = recorder.loads
            if (mixed, kind) not in self.steps:
                lines = all_columns(lambda j, i=i: recorder.record(lambda: place(i, j), row=i, place=True), self.width)
                self.steps[mixed, kind] = Program(lines, self.memory)
        self.memory.close()
        self.fresh = self.memory.snapshot()

    def _kinds(self, i: int) -> tuple[bool, int, bool]:
        return i == 0, self.kinds[i], len(chosen(self.coarser, self.stride, i, self.width)) > 0

    def run(self, request: Request, report: Callable[[], None]) -> None:
        """Fill the images; tells when a row is finished."""
        restore(self.fresh)
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            for maps, row, index in self.loads[first, kind]:
                row.copy_(maps[index.of(i)])
            self.begin[first, kind]()
            row = slice(i, i + 1)
            self.noise.copy_(request.noise[:, :, row])
            if self.known is not None:
                self.known.copy_(request.known[:, :, row])
            if mixed or self.known is not None:
                self.symbols.copy_(request.x[:, :, row])
            self.steps[mixed, kind]()
            request.x[:, :, row] = self.symbols
            report()

    def copy(self) -> "Rows":
        """The same programs on memory of their own, for another core."""
        other = object.__new__(Rows)
        other.__dict__.update(self.__dict__)
        other.memory, moves = self.memory.moved()
        other.symbols, other.noise = moves.tensor(self.symbols), moves.tensor(self.noise)
        other.known = None if self.known is None else moves.tensor(self.known)
        for name in ("begin", "steps"):
            setattr(other, name, {key: program.moved(other.memory, moves) for key, program in getattr(self, name).items()})
        other.loads = {key: [(maps, moves.tensor(row), index) for maps, row, index in loads] for key, loads in self.loads.items()}
        other.fresh = other.memory.snapshot()
        return other
