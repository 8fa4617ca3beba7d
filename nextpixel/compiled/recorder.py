"""The recorder: a tracer that records each of torch's calls as an instruction, without executing it.

A scan works on memory that never moves (`layers.grid`), so the calls of one row are those of every row of its kind, on the
same addresses. Views are taken as they are; the result of a call without `out` gets memory that belongs to the program. A call
for which there is no instruction is refused, so a program does all that it was recorded from, or does not exist.

Most columns are not recorded: their instructions are those of a few columns at addresses a constant distance further on. So a
program is as long for a wide row as for a narrow one.
"""

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import numpy as np
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from nextpixel.compiled.emitter import Emitter
from nextpixel.compiled.instructions import ADDRESSES, FIELDS, JUMPS, Block, NotRecordableError, table_of
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.operations import OPERATIONS, VIEWS, view
from nextpixel.layers.pointwise import repeat

# Columns after which the calls repeat: each resolution of PixelCNN++ doubles the period.
PERIODS = (1, 2, 4, 8, 16, 32, 64)
# Bytes of instructions of a row in which no period was found.
MOST_BYTES = 2**26


class Recorder(Emitter, TorchFunctionMode):
    """Records the calls inside `with recorder:`."""

    def __init__(self, memory: Memory, symbols: Tensor) -> None:
        super().__init__(memory, symbols)
        self._blocks: list[Block] = []

    def record(self, function: Callable[[], Any], row: int, place: bool = False) -> list[Block]:
        """The instructions of a function, which may read this row of the symbols.

        New tensors share the memory of the last place's, or of the last row clock's: no place reads another's.

        Raises:
            NotRecordableError: a call for which there is no instruction.
        """
        self.instructions, self._blocks, self.loads, self.row, self._used = [], [], [], row, 0
        self._temporaries = self._pools[place]
        with self:
            function()
        self._end_block()
        return self._blocks

    def record_columns(self, place: Callable[[int], Any], row: int, width: int) -> list[Block]:
        """The instructions of a function of each column of a row.

        Raises:
            NotRecordableError: a call for which there is no instruction, or a repetition inside a column.
        """

        def column(j: int) -> np.ndarray:
            blocks = self.record(lambda: place(j), row, place=True)
            if len(blocks) > 1:
                raise NotRecordableError("a place that repeats calls")
            return blocks[0].table

        return all_columns(column, width)

    def repeat(self, function: Callable[[int], None], times: int) -> None:
        """Record function(0), function(1), ..."""
        used = self._used
        self._end_block()
        blocks = self._blocks

        def turn(k: int) -> np.ndarray:
            self.instructions, self._blocks, self._used = [], [], used
            with self:
                function(k)
            if self._blocks:
                raise NotRecordableError("repeated calls that repeat calls")
            return table_of(self.instructions)

        blocks += all_columns(turn, times)
        self.instructions, self._blocks = [], blocks

    def _end_block(self) -> None:
        if self.instructions or not self._blocks:
            self._blocks.append(Block(table_of(self.instructions)))
        self.instructions = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        handler = Recorder.repeat if func is repeat else OPERATIONS.get(func)
        if handler is not None:
            try:
                return handler(self, *args, **(kwargs or {}))
            except TypeError:
                self._check_arguments(func, handler, args, kwargs or {})
                raise
        if func in VIEWS or getattr(func, "__name__", "") == "__get__":
            return view(self, func, *args, **(kwargs or {}))
        raise NotRecordableError(f"{resolve_name(func) or func} has no instruction")

    def _check_arguments(self, func: Callable[..., Any], handler: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """
        Raises:
            NotRecordableError: arguments that the handler does not take.
        """
        try:
            signature(handler).bind(self, *args, **kwargs)
        except TypeError as error:
            raise NotRecordableError(f"{resolve_name(func) or func} has no instruction: {error}") from None


def all_columns(record: Callable[[int], np.ndarray], width: int) -> list[Block]:
    """The instructions of columns 0, 1, ... `width` - 1.

    Two periods at the left give the distances between addresses. They predict a period at the right, which is recorded and
    compared: unless both are equal, every column is recorded.

    Args:
        record: the instructions of a column.
        width: how many columns there are.

    Raises:
        NotRecordableError: no period was found, and the instructions of all columns would take more than `MOST_BYTES`.
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
        raise NotRecordableError(f"columns without a pattern, {width} of them with {len(one)} instructions each")
    return [_block(map(recorded, range(width)), 0)]


def _with_jumps(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Instructions with their distance to those of a later column, if these are the same at other addresses."""
    if a.shape != b.shape or np.any(np.delete(a != b, ADDRESSES, axis=1)):
        return None
    table = a.copy()
    table[:, JUMPS] = b[:, ADDRESSES] - a[:, ADDRESSES]
    return table


def _moved(table: np.ndarray, times: int) -> np.ndarray:
    """The instructions of a later repetition."""
    moved = table.copy()
    moved[:, ADDRESSES] += times * table[:, JUMPS]
    moved[:, JUMPS] = 0
    return moved


def _block(columns: Iterable[np.ndarray], first: int, times: int = 1) -> Block:
    columns = list(columns)
    bounds = (0, *np.cumsum([len(table) for table in columns]).tolist())
    return Block(np.concatenate([np.zeros((0, len(FIELDS)), np.int64), *columns]), times, first, bounds)
