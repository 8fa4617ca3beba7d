"""The scan on a GPU with one launch per row: the row's lines run by a Triton kernel (`nextpixel.compiled.triton_kernel`)."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from nextpixel.compiled.draw_lines import row_lines
from nextpixel.compiled.graphs import GraphRows
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.recorder import Recorder
from nextpixel.compiled.triton_kernel import run_lines

NUMBERS = {torch.float32: tl.float32, torch.float64: tl.float64}
# Columns and rows of a matrix that are multiplied at once, and the warps that do it.
BLOCK, DEPTH, WARPS = 128, 32, 8


class KernelRows(GraphRows):
    """One pass over some images, of which a single block of threads draws all: for one image, or very few.

    Args:
        As of `GraphRows`.

    Raises:
        NotRecordableError: the model asks torch for something that has no line.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.memories: list[Memory] = []  # which the tables' addresses point to

    def prepare(self, i: int, kept: range) -> Callable[[], None]:
        dtype, device = next(self.part.parameters()).dtype, self.request.x.device
        memory = Memory(dtype, device, scratch=0)
        lines = row_lines(Recorder(memory, self.row.image), self.part, self.cache, self.row, self.request, i, kept)
        memory.close()
        table = torch.from_numpy(lines).to(device)
        levels = triton.next_power_of_2(self.request.law.levels)

        def launch() -> None:
            number = NUMBERS[dtype]
            run_lines[(1,)](table, len(table), number, dtype.itemsize, BLOCK, DEPTH, levels, num_warps=WARPS)

        self.memories.append(memory)
        return launch
