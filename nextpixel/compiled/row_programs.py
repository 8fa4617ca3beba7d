"""One pass over some images as programs: the row clock of every kind of row, and its steps with their draws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextpixel.compiled.emitter import RowIndex
from nextpixel.compiled.instructions import Block
from nextpixel.compiled.interpreter import Program
from nextpixel.compiled.memory import Memory, restore
from nextpixel.compiled.recorder import Recorder
from nextpixel.likelihoods import Likelihood
from nextpixel.scan.job import DrawJob, RowBuffer
from nextpixel.scan.protocols import ModelScanner
from nextpixel.scan.raster import chosen, visit


def memory_for(scanner: ModelScanner, scratch: int = 0) -> Memory:
    """Memory for the programs of a scanner, whose weights are foreign to them."""
    weights = [*scanner.parameters(), *scanner.buffers()]
    return Memory(weights[0].dtype, scratch, weights)


@dataclass
class RowClocks:
    """The row clock of every kind of row: its program, and the rows of a condition's maps that are copied before it runs.

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
    """Blocks of instructions that become programs together.

    Args:
        memory: all that they address.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.clocks: dict[tuple[bool, int], list[Block]] = {}
        self.loads: dict[tuple[bool, int], list[tuple[Tensor, Tensor, RowIndex]]] = {}
        self.steps: dict[tuple[bool, int], list[Block]] = {}

    def clock(self, recorder: Recorder, scanner: ModelScanner, cache: Any, i: int, kind: tuple[bool, int]) -> None:
        """Record the row clock of row i, unless its kind has one."""
        if kind not in self.clocks:
            self.clocks[kind] = recorder.record(lambda: scanner.begin_row(cache, recorder.symbols, RowIndex(i)), row=i - 1)
            self.loads[kind] = recorder.loads

    def close(self) -> tuple[RowClocks, dict[tuple[bool, int], Program]]:
        """The programs: of the row clocks, and of the steps.

        Raises:
            NotRecordableError: as `Memory.close`.
        """
        closed = [Program(blocks, self.memory) for blocks in self.memory.close([*self.clocks.values(), *self.steps.values()])]
        clocks = dict(zip(self.clocks, closed, strict=False))
        return RowClocks(clocks, self.loads), dict(zip(self.steps, closed[len(clocks) :], strict=True))


class RowPrograms:
    """One pass over some images, as programs.

    Args:
        scanner: of the pass.
        job: the images, on the grid of the pass.
        coarser, stride: of the pass before and of this one.

    Raises:
        NotRecordableError: the scanner makes a call of torch for which there is no instruction.
    """

    def __init__(self, scanner: ModelScanner, job: DrawJob, coarser: int | None = None, stride: int = 1) -> None:
        batch, _, self.height, self.width = job.x.shape
        self.coarser, self.stride, self.kinds = coarser, stride, [scanner.row_kind(i) for i in range(self.height)]
        self.memory = memory_for(scanner, scratch_bytes(job.distribution))
        self.row = RowBuffer.of(job)
        for tensor in self.row.tensors:
            self.memory.write(tensor)
        cache = scanner.start(batch, job.h, (self.height, self.width))
        recorder, recording = Recorder(self.memory, self.row.image), Recording(self.memory)
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            recording.clock(recorder, scanner, cache, i, (first, kind))
            if (mixed, kind) not in recording.steps:
                earlier = chosen(coarser, stride, i, self.width)
                recording.steps[mixed, kind] = record_row(recorder, scanner, cache, self.row, job, i, earlier)
        self.clocks, self.steps = recording.close()
        self.fresh = self.memory.snapshot()

    def _kinds(self, i: int) -> tuple[bool, int, bool]:
        return i == 0, self.kinds[i], len(chosen(self.coarser, self.stride, i, self.width)) > 0

    def run(self, job: DrawJob, report: Callable[[], None]) -> None:
        """Fill the images; `report` is called after each row.

        Raises:
            InputError: a symbol has no probabilities.
        """
        restore(self.fresh)
        for i in range(self.height):
            first, kind, mixed = self._kinds(i)
            self.clocks((first, kind), i)
            self.row.read(job, i)
            self.steps[mixed, kind]()
            self.row.write(job, i)
            report()

    def copy(self) -> "RowPrograms":
        """The same programs on memory of their own, for another core."""
        other = object.__new__(RowPrograms)
        other.__dict__.update(self.__dict__)
        other.memory, moves, view = self.memory.moved()
        other.row = RowBuffer(*map(view, self.row.tensors), *[None] * (self.row.known is None), self.height)

        def moved(programs: dict[tuple[bool, int], Program]) -> dict[tuple[bool, int], Program]:
            return {key: program.moved(other.memory, moves) for key, program in programs.items()}

        loads = {key: [(maps, view(row), index) for maps, row, index in of_kind] for key, of_kind in self.clocks.loads.items()}
        other.clocks, other.steps = RowClocks(moved(self.clocks.programs), loads), moved(self.steps)
        other.fresh = other.memory.snapshot()
        return other

    @property
    def nbytes(self) -> int:
        """Of its memory, the contents that it begins with, and its instructions; what copies share is counted in each."""
        programs = (*self.clocks.programs.values(), *self.steps.values())
        return self.memory.nbytes + sum(contents.nbytes for _, contents in self.fresh) + sum(p.nbytes for p in programs)


def scratch_bytes(likelihood: Likelihood) -> int:
    """Memory that its draw instructions work on."""
    return 8 * max(likelihood.draw_instruction(c).scratch for c in range(likelihood.channels))


def record_draw(
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
        recorder.append(
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


def record_row(
    recorder: Recorder, scanner: ModelScanner, cache: Any, row: RowBuffer, job: DrawJob, i: int, earlier: range
) -> list[Block]:
    """Record the steps and draws of all places of row i.

    Args:
        recorder: of the program.
        scanner, cache: of the pass.
        row: the images' row.
        job: its distribution and temperature.
        i: the row.
        earlier: its columns whose symbols a coarser pass has chosen.

    Raises:
        NotRecordableError: `step` makes a call for which there is no instruction.
    """

    def place(j: int) -> None:
        for c, params in visit(scanner, cache, row.image, i, j, j in earlier, job.distribution):
            known = None if row.known is None else row.known[:, c, 0, j]
            noise = row.noise[:, c, 0, j]
            record_draw(recorder, job.distribution, params, row.symbols[:, :, 0, j], c, noise, known, job.temperature)

    return recorder.record_columns(place, i, row.symbols.shape[3])
