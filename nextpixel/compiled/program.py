"""A program on a processor: the table that the interpreter runs, and weights in the order that its products read."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.compiled.kernels import REGISTER, ROWS, panel_registers, run
from nextpixel.compiled.memory import Memory, Relocation


class PanelMemory(Memory):
    """Memory whose matrices lie in panels: a tile's columns of row 0, of row 1, and so on; then the next columns.

    Args:
        dtype: of the numbers.
        scratch: bytes that an operation needs for itself, besides a tile.
    """

    def __init__(self, dtype: torch.dtype, scratch: int) -> None:
        super().__init__(dtype, torch.device("cpu"), max(scratch, ROWS * 3 * REGISTER))

    def pack(self, weight: Tensor) -> Tensor:
        width = REGISTER // weight.element_size()
        padded = F.pad(weight, (0, -weight.shape[1] % width))
        panels = padded.split([width * registers for registers in panel_registers(padded.shape[1] // width)], 1)
        return torch.cat([panel.flatten() for panel in panels])


class Program:
    """Lines, ready to run.

    Args:
        table: the lines, (n, `COLUMNS`) int64.
        memory: what they point to.
    """

    def __init__(self, table: np.ndarray, memory: Memory) -> None:
        self.table, self.memory = table, memory
        self._like = np.float32(0) if memory.dtype == torch.float32 else np.float64(0)

    def __call__(self) -> None:
        """Run it, without Python and without its lock."""
        run(self.table, self.memory.scratch.data_ptr(), self._like)

    def moved(self, memory: Memory, relocation: Relocation) -> "Program":
        """The same on other memory."""
        return Program(relocation.table(self.table), memory)
