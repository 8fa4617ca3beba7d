"""The instruction set of programs: fields, opcodes, and blocks of instructions that repeat at later addresses.

An instruction is a row of integers: opcode, sizes, and for each operand an address and two strides in elements. Element-wise
instructions run over n0 x n1 runs of n2 contiguous elements; a product takes n0 groups of n1 rows, k deep, n2 wide. The last four
fields are the distance by which each address moves at every repetition of a block.
"""

from dataclasses import dataclass

import numpy as np

OPERANDS = ("out", "a", "b", "c")
FIELDS = (
    *("opcode", "n0", "n1", "n2", "k"),
    *(f"{name}{suffix}" for name in OPERANDS for suffix in ("", "_0", "_1")),
    *(f"{name}_jump" for name in OPERANDS),
)
FIELD = {name: position for position, name in enumerate(FIELDS)}
ADDRESSES = [FIELD[name] for name in OPERANDS]
JUMPS = [FIELD[f"{name}_jump"] for name in OPERANDS]
ELEMENTWISE = ("copy", "neg", "relu", "elu", "sigmoid", "tanh", "add", "mul", "gate", "addcmul")
OTHERS = ("concat_elu", "product", "intensity", "embedding", "binary", "categorical", "mixture")
OPCODES = {name: code for code, name in enumerate((*ELEMENTWISE, *OTHERS))}


class NotRecordableError(Exception):
    """A call for which there is no instruction."""


@dataclass(frozen=True)
class Block:
    """Instructions of some columns of a row, run once or several times, each time at later addresses.

    Args:
        table: (instructions, `FIELDS`) int64.
        times: how often they run.
        first: the first column.
        bounds: instructions bounds[k] to bounds[k + 1] belong to column first + k, and to every `len(bounds) - 1`-th after it.

    Example:
        >>> block = Block(np.zeros((5, len(FIELDS)), np.int64), times=3, first=4, bounds=(0, 2, 5))
        >>> block.columns, block.place(7), block.place(8)
        (range(4, 10), (2, 5, 1), (0, 2, 2))
    """

    table: np.ndarray
    times: int = 1
    first: int = 0
    bounds: tuple[int, ...] = (0,)

    @property
    def columns(self) -> range:
        """The columns that the instructions belong to."""
        return range(self.first, self.first + self.times * (len(self.bounds) - 1))

    def place(self, j: int) -> tuple[int, int, int]:
        """Column j's instructions: first, end, and repetition."""
        time, k = divmod(j - self.first, len(self.bounds) - 1)
        return self.bounds[k], self.bounds[k + 1], time


def table_of(instructions: list[list[int]]) -> np.ndarray:
    """Instructions as a table.

    Example:
        >>> table_of([]).shape == (0, len(FIELDS))
        True
    """
    return np.array(instructions, np.int64).reshape(-1, len(FIELDS))
