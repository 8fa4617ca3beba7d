"""The lines of a whole row from those of some of its columns: columns in the middle ask the same of memory a step further on.

So a program is as long as the lines of a few columns, however wide the row is.
"""

from collections.abc import Callable, Iterable

import numpy as np

from nextpixel.compiled.lines import ADDRESSES, COLUMNS, JUMPS, Block
from nextpixel.recording import NotRecordableError

# Columns after which the calls repeat: each of a PixelCNN++'s resolutions doubles it.
PERIODS = (1, 2, 4, 8, 16, 32, 64)
# Bytes of lines of a row in which no period was found.
MOST_BYTES = 2**26


def all_columns(record: Callable[[int], np.ndarray], width: int) -> list[Block]:
    """The lines of columns 0, 1, ... `width` - 1.

    Two periods at the left say how addresses grow; what this says of a period at the right is compared with a record of it, and
    unless both are equal, every column is recorded.

    Args:
        record: the lines of a column.
        width: how many columns there are.

    Raises:
        NotRecordableError: no period was found, and the lines of all columns would take more than `MOST_BYTES`.
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
        starts = [_with_jumps(recorded(period + r), recorded(2 * period + r)) for r in range(period)]
        if any(start is None for start in starts):
            continue
        middle = {j: _moved(starts[j % period], j // period - 1) for j in range(width - 2 * period, width - period)}
        if all(np.array_equal(middle[j][:, : JUMPS[0]], recorded(j)[:, : JUMPS[0]]) for j in middle):
            times = (width - 2 * period) // period
            end = period * (times + 1)  # what is left of the middle is less than a period
            return [
                _block(map(recorded, range(period)), 0),
                _block(starts, period, times),
                _block(map(recorded, range(end, width)), end),
            ]
    one = recorded(width // 2)
    if one.nbytes * width > MOST_BYTES:
        raise NotRecordableError(f"columns without a pattern, {width} of them with {len(one)} lines each")
    return [_block(map(recorded, range(width)), 0)]


def _with_jumps(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Lines, and how far they are from those of a later column, if these do the same at other addresses."""
    if a.shape != b.shape or np.any(np.delete(a != b, ADDRESSES, axis=1)):
        return None
    lines = a.copy()
    lines[:, JUMPS] = b[:, ADDRESSES] - a[:, ADDRESSES]
    return lines


def _moved(lines: np.ndarray, times: int) -> np.ndarray:
    """The lines of a later repetition, as lines of their own."""
    moved = lines.copy()
    moved[:, ADDRESSES] += times * lines[:, JUMPS]
    moved[:, JUMPS] = 0
    return moved


def _block(columns: Iterable[np.ndarray], first: int, times: int = 1) -> Block:
    columns = list(columns)
    bounds = (0, *np.cumsum([len(lines) for lines in columns]).tolist())
    return Block(np.concatenate([np.zeros((0, len(COLUMNS)), np.int64), *columns]), times, first, bounds)
