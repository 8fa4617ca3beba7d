"""How far the instructions of a program reach: the bytes that each of its operands touches, from which to which.

    begin = address + min(0, (n0 - 1) s0) + min(0, (n1 - 1) s1)          end = address + max(...) + max(...) + run

and, of a block that is repeated, both at the first and at the last time: addresses move in equal jumps, so the rest lies between.
Numbers are taken in float64: exact for all that memory can hold, and never small again where they overflow.
"""

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from nextpixel.compiled.lines import AT, COLUMNS, OPERATIONS, Block
from nextpixel.compiled.simd import register_bytes
from nextpixel.compiled.vector_math import OPERATIONS as FUNCTIONS
from nextpixel.recording import NotRecordableError

DRAWS = ("binary", "categorical", "mixture")
SYMBOL, NOISE, SETTING, FLAG = 8, 8, 8, 1


class Access(NamedTuple):
    """What one operand of some instructions touches, from which byte to which (n,), and whether it is written."""

    begin: np.ndarray
    end: np.ndarray
    writes: bool


def accesses(block: Block, dtype: torch.dtype, scratch: int) -> Iterator[Access]:
    """All that the lines of a block touch. Take them one by one: settings are read once it is known where they are.

    Args:
        block: the lines.
        dtype: of the numbers.
        scratch: bytes of memory that an operation has for itself.

    Raises:
        NotRecordableError: an operation that is none, sizes that are none, or a draw that needs more scratch memory.
    """
    codes = block.table[:, AT["operation"]]
    if block.times < 1 or not np.isin(codes, list(OPERATIONS.values())).all():
        raise NotRecordableError("an instruction that is none")
    for name, code in OPERATIONS.items():
        if (codes == code).any():
            yield from _Lines(block.table[codes == code], block.times, dtype.itemsize).accesses(name, scratch)


class _Lines:
    """Lines of one operation."""

    def __init__(self, table: np.ndarray, times: int, size: int) -> None:
        self.column = dict(zip(COLUMNS, table.T.astype(np.float64), strict=True))
        self.times, self.size = times, size
        self.n0, self.n1, self.n2, self.k = (self.column[name] for name in ("n0", "n1", "n2", "k"))

    def accesses(self, name: str, scratch: int) -> Iterator[Access]:
        sizes = (self.n0, self.n1) if name in DRAWS else (self.n0, self.n1, self.n2)
        if min(size.min() for size in sizes) < 1 or min(self.n2.min(), self.k.min()) < 0:
            raise NotRecordableError(f"{name} of no elements")
        both = ((self.n0, 0), (self.n1, 1))
        if name in DRAWS:
            yield from self._draw(name, scratch)
        elif name == "product":
            width = register_bytes() // self.size
            yield self._of("out", both, self.n2, self.size, True)
            yield self._of("a", both, self.k, self.size)
            yield self._of("b", (), self.k * np.ceil(self.n2 / width) * width, self.size)
            yield self._of("c", both, self.n2, self.size)
        elif name in ("intensity", "embedding"):
            run, of_table = (1, 1) if name == "intensity" else (self.n2, self.k * self.n2)
            yield self._of("out", both, run, self.size, True)
            yield self._of("a", both, 1, SYMBOL)
            yield self._of("b", (), of_table, self.size)
        else:
            inputs = 2 if name == "concat_elu" else FUNCTIONS[name][1]
            yield self._of("out", both, self.n2, self.size, True)
            for operand in ("a", "b", "c")[:inputs]:
                yield self._of(operand, both, self.n2, self.size, name == "concat_elu" and operand == "b")

    def _draw(self, name: str, scratch: int) -> Iterator[Access]:
        at = self.column["b_1"]
        yield Access(at, at + 2 * SETTING, False)
        first, second = np.array([(ctypes.c_double * 2).from_address(int(address)) for address in at]).T
        levels, channel, images = self.n1, self.n2, self.n0
        run, needed, symbols = np.ones(len(at)), 0.0, ()
        if name == "mixture":
            run = self.k * (1 + 2 * first + first * (first - 1) / 2)
            needed, symbols = 4 * self.k.max(), ((channel + 1, 1),)
        else:
            images = images * np.where(second == 1, 1, 2)  # guided: every image once more, without its condition
            if name == "categorical":
                run, needed = levels, levels.max()
        if needed * self.size > scratch:
            raise NotRecordableError(f"a draw that needs more than {scratch} bytes of scratch memory")
        yield self._of("out", ((images, 0), *symbols), 1, SYMBOL, True)
        yield self._of("a", ((images, 0),), run, self.size)
        yield self._of("b", ((self.n0, 0),), 1, NOISE)
        yield self._of("c", ((self.n0, 0),), 1, FLAG)

    def _of(
        self, operand: str, loops: tuple[tuple[np.ndarray, int], ...], run: object, size: int, writes: bool = False
    ) -> Access:
        """What an operand touches: runs of so many elements, in loops of so many turns along one of its strides; 0 is none."""
        address, there = self.column[operand], np.ones(len(self.n0), bool)
        if operand == "c":
            there = address != 0
        reaches = [(turns - 1) * self.column[f"{operand}_{stride}"] * size for turns, stride in loops]
        reaches.append(self.column[f"{operand}_jump"] * (self.times - 1))
        begin = address + sum(np.minimum(reach, 0) for reach in reaches)
        end = address + sum(np.maximum(reach, 0) for reach in reaches) + np.asarray(run) * size
        return Access(begin[there], end[there], writes)
