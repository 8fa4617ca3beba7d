"""One pass over some images as programs: the row clock and the places of every kind of row, recorded from a part's methods.

The lines of a row's places: those of the steps, and those that draw, which hold the operands of a law's rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nextpixel.compiled.instructions import Block
from nextpixel.compiled.interpreter import Program
from nextpixel.compiled.memory import Memory, restore
from nextpixel.compiled.recorder import Recorder, RowIndex
from nextpixel.likelihoods import Likelihood
from nextpixel.scan.job import Request, Row
from nextpixel.scan.raster import Steppable, chosen, visit

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel


def memory_for(part: "AutoregressiveModel", scratch: int = 0) -> Memory:
    """Memory for the programs of a part, which owns its weights."""
    weights = [*part.parameters(), *part.buffers()]
    return Memory(weights[0].dtype, scratch, weights)


@dataclass
class RowClocks:
    """The row clock of every kind of row: its program, and the rows of a condition's maps that it reads, which are loaded first.

    Attributes:
        loads: (maps of all rows, memory of one, which) for each.
    """

    programs: dict[tuple[bool, int], Program]
    loads: dict[tuple[bool, int], list[tuple[Tensor, Tensor, RowIndex]]]

    def __call__(self, kind: tuple[bool, int], i: int) -> None:
        """Run it for row i."""
        for maps, target, index in self.loads[kind]:
            target.copy_(maps[index.of(i)])
        self.programs[kind]()


class Recording:
    """Blocks of lines that become programs together.

    Args:
        memory: what they point to.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.clocks: dict[tuple[bool, int], list[Block]] = {}
        self.loads: dict[tuple[bool, int], list[tuple[Tensor, Tensor, RowIndex]]] = {}
        self.steps: dict[tuple[bool, int], list[Block]] = {}

    def clock(self, recorder: Recorder, part: "AutoregressiveModel", cache: Any, i: int, kind: tuple[bool, int]) -> None:
        """Record the row clock of row i, unless rows of its kind have one."""
        if kind not in self.clocks:
            self.clocks[kind] = recorder.record(lambda: part.begin_row(cache, recorder.symbols, RowIndex(i)), row=i - 1)
            self.loads[kind] = recorder.loads

    def close(self) -> tuple[RowClocks, dict[tuple[bool, int], Program]]:
        """The programs: of the row clocks, and of the steps.

        Raises:
            NotRecordableError: as `Memory.close`.
        """
        closed = [Program(blocks, self.memory) for blocks in self.memory.close([*self.clocks.values(), *self.steps.values()])]
        clocks = dict(zip(self.clocks, closed, strict=False))
        return RowClocks(clocks, self.loads), dict(zip(self.steps, closed[len(clocks) :], strict=True))


class Rows:
    """One pass over some images, as programs.

    Args:
        part: what scans the pass.
        request: the images, on the grid of the pass.
        coarser, stride: of the pass before and of this one.

    Raises:
        NotRecordableError: the part asks torch for something that programs do not do.
    """

    def __init__(self, part: "AutoregressiveModel", request: Request, coarser: int | None = None, stride: int = 1) -> None:
        batch, _, self.height, self.width = request.x.shape
        self.coarser, self.stride, self.kinds = coarser, stride, [part.row_kind(i) for i in range(self.height)]
        self.memory = memory_for(part, scratch_bytes(request.law))
        self.row = Row.of(request)
        for tensor in self.row.tensors:
            self.memory.write(tensor)
        cache = part.start(batch, request.h, (self.height, self.width))
        recorder, recording = Recorder(self.memory, self.row.image), Recording(self.memory)
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            recording.clock(recorder, part, cache, i, (first, kind))
            if (mixed, kind) not in recording.steps:
                kept = chosen(coarser, stride, i, self.width)
                recording.steps[mixed, kind] = row_lines(recorder, part, cache, self.row, request, i, kept)
        self.clocks, self.steps = recording.close()
        self.fresh = self.memory.snapshot()

    def _kinds(self, i: int) -> tuple[bool, int, bool]:
        return i == 0, self.kinds[i], len(chosen(self.coarser, self.stride, i, self.width)) > 0

    def run(self, request: Request, report: Callable[[], None]) -> None:
        """Fill the images; tells when a row is finished.

        Raises:
            InputError: a symbol has no probabilities.
        """
        restore(self.fresh)
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            self.clocks((first, kind), i)
            self.row.read(request, i)
            self.steps[mixed, kind]()
            self.row.write(request, i)
            report()

    def copy(self) -> "Rows":
        """The same programs on memory of their own, for another core."""
        other = object.__new__(Rows)
        other.__dict__.update(self.__dict__)
        other.memory, moves, view = self.memory.moved()
        other.row = Row(*map(view, self.row.tensors), *[None] * (self.row.known is None), self.height)

        def moved(programs: dict[tuple[bool, int], Program]) -> dict[tuple[bool, int], Program]:
            return {key: program.moved(other.memory, moves) for key, program in programs.items()}

        loads = {key: [(maps, view(row), index) for maps, row, index in of_kind] for key, of_kind in self.clocks.loads.items()}
        other.clocks, other.steps = RowClocks(moved(self.clocks.programs), loads), moved(self.steps)
        other.fresh = other.memory.snapshot()
        return other

    @property
    def nbytes(self) -> int:
        """Of its memory, what it begins with, and its lines; what copies share is counted in each."""
        programs = (*self.clocks.programs.values(), *self.steps.values())
        return self.memory.nbytes + sum(contents.nbytes for _, contents in self.fresh) + sum(p.nbytes for p in programs)


def scratch_bytes(likelihood: Likelihood) -> int:
    """Memory that its draw instructions work on."""
    return 8 * max(likelihood.draw_instruction(c).scratch for c in range(likelihood.channels))


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
        likelihood: which has a draw instruction for this temperature.
        params: (B, P).
        symbols: (B, C) int64 of the place; channel c is written.
        c: the channel.
        noise: (B,) float64.
        known: (B,) bool, where the symbol is kept, or None.
        temperature: divides the logits.
    """
    with torch._C.DisableTorchFunction():
        memory, instruction = recorder.memory, likelihood.draw_instruction(c, temperature)
        if instruction.params is not None:
            params = params[:, instruction.params]
        if instruction.coupled:
            out = (memory.write(symbols), (symbols.stride(0), symbols.stride(1)))
        else:
            out = (memory.write(symbols[:, c]), (symbols.stride(0), 0))
        recorder.line(
            instruction.opcode,
            len(symbols) // instruction.copies,
            likelihood.levels,
            c,
            instruction.mixtures,
            out,
            (memory.read(params), (params.stride(0), 0)),
            (memory.read(noise), (noise.stride(0), memory.settings(*instruction.settings))),
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
