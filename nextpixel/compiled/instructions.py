"""The lines of a program: what their columns and operations are called, and runs of lines that repeat further on in memory.

A line is a row of whole numbers: operation, sizes, and for each operand an address and two strides in elements. Element-wise
lines run over n0 x n1 runs of n2 elements that lie side by side; a product takes n0 groups of n1 rows, k deep, n2 wide. The last
four numbers say how far each address moves when a run of lines is repeated.
"""

from dataclasses import dataclass

import numpy as np

OPERANDS = ("out", "a", "b", "c")
COLUMNS = (
    *("operation", "n0", "n1", "n2", "k"),
    *(f"{name}{part}" for name in OPERANDS for part in ("", "_0", "_1")),
    *(f"{name}_jump" for name in OPERANDS),
)
AT = {name: column for column, name in enumerate(COLUMNS)}
ADDRESSES = [AT[name] for name in OPERANDS]
JUMPS = [AT[f"{name}_jump"] for name in OPERANDS]
ELEMENTWISE = ("copy", "neg", "relu", "elu", "sigmoid", "tanh", "add", "mul", "gate", "addcmul")
OTHERS = ("concat_elu", "product", "intensity", "embedding", "binary", "categorical", "mixture")
OPERATIONS = {name: code for code, name in enumerate((*ELEMENTWISE, *OTHERS))}


@dataclass(frozen=True)
class Block:
    """Lines of some columns of a row, once or several times, each time further on in memory.

    Args:
        table: (lines, `COLUMNS`) int64.
        times: how often they run.
        first: the first column.
        bounds: lines bounds[k] to bounds[k + 1] are those of column first + k, and of each column `len(bounds) - 1` further on.

    Example:
        >>> block = Block(np.zeros((5, len(COLUMNS)), np.int64), times=3, first=4, bounds=(0, 2, 5))
        >>> block.columns, block.place(7), block.place(8)
        (range(4, 10), (2, 5, 1), (0, 2, 2))
    """

    table: np.ndarray
    times: int = 1
    first: int = 0
    bounds: tuple[int, ...] = (0,)

    @property
    def columns(self) -> range:
        """The columns whose lines they are."""
        return range(self.first, self.first + self.times * (len(self.bounds) - 1))

    def place(self, j: int) -> tuple[int, int, int]:
        """The lines of column j: from which to which, and in which repetition."""
        time, k = divmod(j - self.first, len(self.bounds) - 1)
        return self.bounds[k], self.bounds[k + 1], time


def table_of(lines: list[list[int]]) -> np.ndarray:
    """Lines as a table, with jumps of 0.

    Example:
        >>> table_of([]).shape == (0, len(COLUMNS))
        True
    """
    return np.array(lines, np.int64).reshape(-1, len(COLUMNS))
