"""A program on a processor: the blocks of lines that the interpreter runs."""

from dataclasses import replace

import numpy as np
import torch

from nextpixel.compiled.kernels import run
from nextpixel.compiled.lines import Block
from nextpixel.compiled.memory import Memory, Relocation
from nextpixel.errors import InputError


class Program:
    """Lines, ready to run.

    Args:
        blocks: the lines.
        memory: what they point to.
    """

    def __init__(self, blocks: list[Block], memory: Memory) -> None:
        self.blocks, self.memory = blocks, memory
        self._columns = [(block.columns.stop, block) for block in blocks]
        self._scratch = memory.scratch.data_ptr()
        self._like = np.float32(0) if memory.dtype == torch.float32 else np.float64(0)

    def __call__(self) -> None:
        """Run it, without Python and without its lock.

        Raises:
            InputError: a symbol has no probabilities.
        """
        for block in self.blocks:
            if run(block.table, 0, len(block.table), 0, block.times, self._scratch, self._like):
                raise InputError("the model gives no probabilities: it computes numbers that are infinite or none (NaN)")

    def column(self, j: int) -> None:
        """Run the lines of one column."""
        for stop, block in self._columns:
            if j < stop:
                begin, end, time = block.place(j)
                run(block.table, begin, end, time, time + 1, self._scratch, self._like)
                return
        raise IndexError(f"column {j} of {stop}")

    def moved(self, memory: Memory, relocation: Relocation) -> "Program":
        """The same on other memory."""
        return Program([replace(block, table=relocation.table(block.table)) for block in self.blocks], memory)

    @property
    def nbytes(self) -> int:
        """Of its lines."""
        return sum(block.table.nbytes for block in self.blocks)
