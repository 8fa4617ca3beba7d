"""Records what a piece of the scan asks of torch, as lines of a program; nothing is computed while it records.

A scan works on memory that never moves (`layers.grid`), so the calls of one row are those of every row of its kind, on the
same addresses. Views are taken as they are; a call that gives a new tensor gets memory that the program keeps. What has no line
is refused, so that a program does all that it was recorded from, or does not exist.

The lines of a whole row from those of some of its columns: columns in the middle ask the same of memory a step further on.

So a program is as long as the lines of a few columns, however wide the row is.
"""

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import numpy as np
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from nextpixel.compiled import operations as calls
from nextpixel.compiled.instructions import ADDRESSES, COLUMNS, JUMPS, OPERATIONS, Block, table_of
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.operations import LayoutError, Operand, lay_out, rows_of
from nextpixel.layers.grid import RowConvolution, kernel_matrix
from nextpixel.layers.recordable import NotRecordableError


class RowIndex(int):
    """The row that is being recorded, and how it was reckoned, (i >> shift) + offset, for the rows that follow."""

    shift, offset = 0, 0

    def __rshift__(self, shift: int) -> "RowIndex":
        if self.offset:
            raise NotRecordableError("a row index that is shifted after a difference")
        return self._reckoned(int(self) >> shift, self.shift + shift, 0)

    def __sub__(self, difference: int) -> "RowIndex":
        return self._reckoned(int(self) - difference, self.shift, self.offset - difference)

    def of(self, i: int) -> int:
        """The same of another row."""
        return (i >> self.shift) + self.offset

    def _reckoned(self, value: int, shift: int, offset: int) -> "RowIndex":
        index = RowIndex(value)
        index.shift, index.offset = shift, offset
        return index


class Recorder(TorchFunctionMode):
    """Makes lines of the calls inside `with recorder:`.

    Args:
        memory: of the scan.
        symbols: (B, C, H, W), whose rows are all the same memory.

    Attributes:
        lines: of the block that is being recorded, so far.
        loads: what the rows need before they run: (maps of all rows, the memory of one, which).
        row: the row of the symbols that may be read; there is memory for one only.
    """

    def __init__(self, memory: Memory, symbols: Tensor) -> None:
        super().__init__()
        self.memory, self.symbols = memory, symbols
        self.lines: list[list[int]] = []
        self._blocks: list[Block] = []
        self.loads: list[tuple[Tensor, Tensor, RowIndex]] = []
        self.row: int | None = None
        self._rows: dict[int, tuple[list[Tensor], list[list[Tensor]]]] = {}
        self._pools: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._temporaries = self._pools[0]
        self._used = 0

    def record(self, function: Callable[[], Any], row: int, place: bool = False) -> list[Block]:
        """The lines of what a function asks for, which may read this row of the symbols.

        New tensors take the memory that those of the last place had, or of the last row clock: no place needs another's.

        Raises:
            NotRecordableError: it asks for something that has no line.
        """
        self.lines, self._blocks, self.loads, self.row, self._used = [], [], [], row, 0
        self._temporaries = self._pools[place]
        with self:
            function()
        self._end_block()
        return self._blocks

    def record_columns(self, place: Callable[[int], Any], row: int, width: int) -> list[Block]:
        """The lines of a function of each column of a row.

        Raises:
            NotRecordableError: it asks for something that has no line, or repeats something itself.
        """

        def column(j: int) -> np.ndarray:
            blocks = self.record(lambda: place(j), row, place=True)
            if len(blocks) > 1:
                raise NotRecordableError("a place that repeats calls")
            return blocks[0].table

        return all_columns(column, width)

    def repeat(self, function: Callable[[int], None], times: int) -> None:
        """Lines of function(0), function(1), ..."""
        used = self._used
        self._end_block()
        blocks = self._blocks

        def turn(k: int) -> np.ndarray:
            self.lines, self._blocks, self._used = [], [], used
            with self:
                function(k)
            if self._blocks:
                raise NotRecordableError("repeated calls that repeat calls")
            return table_of(self.lines)

        blocks += all_columns(turn, times)
        self.lines, self._blocks = [], blocks

    def _end_block(self) -> None:
        if self.lines or not self._blocks:
            self._blocks.append(Block(table_of(self.lines)))
        self.lines = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        handler = calls.HANDLERS.get(func)
        if handler is not None:
            try:
                return handler(self, *args, **(kwargs or {}))
            except TypeError:
                self._check_arguments(func, handler, args, kwargs or {})
                raise
        if func in calls.VIEWS or getattr(func, "__name__", "") == "__get__":
            return calls.view(self, func, *args, **(kwargs or {}))
        raise NotRecordableError(f"{resolve_name(func) or func} has no line")

    def _check_arguments(self, func: Callable[..., Any], handler: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """
        Raises:
            NotRecordableError: arguments that the handler does not take.
        """
        try:
            signature(handler).bind(self, *args, **kwargs)
        except TypeError as error:
            raise NotRecordableError(f"{resolve_name(func) or func} has no line: {error}") from None

    def new(self, *shape: int) -> Tensor:
        """Memory for a new tensor."""
        if self._used == len(self._temporaries) or self._temporaries[self._used].shape != shape:
            self._temporaries.insert(self._used, self.memory.new(*shape))
        self._used += 1
        return self._temporaries[self._used - 1]

    def emit(self, operation: str, out: Tensor, *inputs: Tensor) -> Tensor:
        """A line for an element-wise operation, or several where two strides are too few."""
        if not out.numel():
            return out
        dtype = self.memory.dtype
        if out.dtype != dtype or any(source.dtype != dtype for source in inputs):
            raise NotRecordableError(f"{operation} of {[str(t.dtype) for t in (out, *inputs)]}, not {dtype}")
        try:
            sizes, strides = lay_out(out, *inputs)
        except LayoutError:
            # Part by part along the shortest side, so that there are not more lines the wider an image is.
            side = min((axis for axis, size in enumerate(out.shape) if size > 1), key=lambda axis: out.shape[axis])
            tensors = [out, *(source.expand(out.shape) for source in inputs)]
            for parts in zip(*(tensor.unbind(side) for tensor in tensors), strict=True):
                self.emit(operation, *parts)
            return out
        addresses = [self.memory.write(out), *map(self.memory.read, inputs)]
        self.line(operation, *sizes, 0, *zip(addresses, strides, strict=True))
        return out

    def line(self, operation: str, n0: int, n1: int, n2: int, k: int, *operands: tuple[int, Operand]) -> None:
        """Any line: sizes, and for each operand an address and two strides."""
        line = [OPERATIONS[operation], n0, n1, n2, k]
        for address, strides in operands:
            line += (address, *strides)
        self.lines.append(line + [0] * (len(COLUMNS) - len(line)))

    def product(self, out: Tensor, a: Tensor, weight: Tensor, add: Tensor | None) -> Tensor:
        """A line for out = a @ weight + add; a (m, k) or (groups, m, k)."""
        if not a.dtype == weight.dtype == out.dtype == self.memory.dtype:
            raise NotRecordableError(f"a product of {a.dtype} and {weight.dtype}, not {self.memory.dtype}")
        if not out.numel():
            return out
        if add is not None and add.shape != out.shape:
            add = add.expand(out.shape)
        n0, m, (out_rows, a_rows, add_rows) = rows_of(out, a, add)
        self.line(
            "product",
            n0,
            m,
            weight.shape[1],
            weight.shape[0],
            (self.memory.write(out), out_rows),
            (self.memory.read(a), a_rows),
            (self.memory.packed(weight), (0, 0)),
            (0 if add is None else self.memory.read(add), add_rows),
        )
        return out

    def ring(self, rows: RowConvolution) -> tuple[list[Tensor], list[list[Tensor]]]:
        """The remembered rows of a convolution over finished rows, the newest last, with the zeros on both sides; and for each
        the matrices that it is multiplied with: one, or where a window is no run of memory, one for each column of the kernel."""
        if id(rows) not in self._rows:
            ring = [self.memory.new(*rows.padded.shape) for _ in range(rows.rows)]
            kernels = [
                [kernel_matrix(kernel[:, :, None])] if rows.axis == 1 else [column.t() for column in kernel.unbind(2)]
                for kernel in rows.kernel.unbind(2)
            ]
            self._rows[id(rows)] = ring, kernels
            self.memory.read(rows.padded)
        return self._rows[id(rows)]


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
