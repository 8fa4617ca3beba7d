"""The lines of a whole row from those of some of its columns: columns in the middle ask the same of memory a step further on."""

from collections.abc import Callable

import numpy as np

from nextpixel.compiled.lines import ADDRESSES

# Columns after which the calls repeat: each of a PixelCNN++'s resolutions doubles it.
PERIODS = (1, 2, 4)


def all_columns(record: Callable[[int], np.ndarray], width: int) -> np.ndarray:
    """The lines of columns 0, 1, ... `width` - 1.

    Two periods at the left say how addresses grow; what this says of a period at the right is compared with a record of it, and
    unless both are equal, every column is recorded.

    Args:
        record: the lines of a column.
        width: how many columns there are.
    """
    found: dict[int, np.ndarray] = {}

    def recorded(j: int) -> np.ndarray:
        if j not in found:
            found[j] = record(j)
        return found[j]

    for period in PERIODS:
        # The first and the last period are those of the edges.
        if width < 6 * period:
            break
        starts = [recorded(period + r) for r in range(period)]
        jumps = [_jump(start, recorded(2 * period + r)) for r, start in enumerate(starts)]
        if any(jump is None for jump in jumps):
            continue
        middle = {j: starts[j % period] + (j // period - 1) * jumps[j % period] for j in range(period, width - period)}
        if all(np.array_equal(middle[j], recorded(j)) for j in range(width - 2 * period, width - period)):
            return np.concatenate([middle[j] if j in middle else recorded(j) for j in range(width)])
    return np.concatenate([recorded(j) for j in range(width)])


def _jump(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """From lines to those of a later column, if these do the same at other addresses."""
    if a.shape != b.shape or np.any(np.delete(a != b, ADDRESSES, axis=1)):
        return None
    return b - a
