"""One pass over some images as programs: the row clock and the places of every kind of row, recorded from a part's methods."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from nextpixel.compiled.draw_lines import row_lines, scratch_bytes
from nextpixel.compiled.memory import restore
from nextpixel.compiled.program import PanelMemory, Program
from nextpixel.compiled.recorder import Recorder, RowIndex
from nextpixel.compiled.request import Request, Row
from nextpixel.raster import chosen

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
        batch, _, self.height, self.width = request.x.shape
        self.coarser, self.stride, self.kinds = coarser, stride, [part.row_kind(i) for i in range(self.height)]
        self.memory = PanelMemory(next(part.parameters()).dtype, scratch_bytes(request.law))
        self.row = Row.of(request)
        for tensor in self.row.tensors:
            self.memory.write(tensor)
        cache, image = part.start(batch, request.h, (self.height, self.width)), self.row.image
        recorder = Recorder(self.memory, image)
        self.begin: dict[tuple[bool, int], Program] = {}
        self.loads: dict[tuple[bool, int], list[tuple[Tensor, Tensor, RowIndex]]] = {}
        self.steps: dict[tuple[bool, int], Program] = {}
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            if (first, kind) not in self.begin:
                lines = recorder.record(lambda i=i: part.begin_row(cache, image, RowIndex(i)), row=i - 1, place=False)
                self.begin[first, kind] = Program(lines, self.memory)
                self.loads[first, kind] = recorder.loads
            if (mixed, kind) not in self.steps:
                kept = chosen(coarser, stride, i, self.width)
                lines = row_lines(recorder, part, cache, self.row, request, i, kept)
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
            for maps, target, index in self.loads[first, kind]:
                target.copy_(maps[index.of(i)])
            self.begin[first, kind]()
            self.row.read(request, i)
            self.steps[mixed, kind]()
            self.row.write(request, i)
            report()

    def copy(self) -> "Rows":
        """The same programs on memory of their own, for another core."""
        other = object.__new__(Rows)
        other.__dict__.update(self.__dict__)
        other.memory, moves = self.memory.moved()
        other.row = Row(*map(moves.tensor, self.row.tensors), *[None] * (self.row.known is None), self.height)
        for name in ("begin", "steps"):
            setattr(other, name, {key: program.moved(other.memory, moves) for key, program in getattr(self, name).items()})
        other.loads = {key: [(maps, moves.tensor(row), index) for maps, row, index in loads] for key, loads in self.loads.items()}
        other.fresh = other.memory.snapshot()
        return other
