"""The emitter: instructions for operations on tensors, and the layouts that instructions can address.

An operand of an instruction has an address and two strides: `lay_out` and `rows_of` find them.
"""

from collections.abc import Sequence

from torch import Tensor

from nextpixel.compiled.instructions import FIELDS, OPCODES, NotRecordableError
from nextpixel.compiled.memory import Memory
from nextpixel.layers.grid import RowConvolution, kernel_matrix

Operand = tuple[int, int]


class RowIndex(int):
    """The row that is being recorded, with its formula (i >> shift) + offset, which holds for the rows that follow."""

    shift, offset = 0, 0

    def __rshift__(self, shift: int) -> "RowIndex":
        if self.offset:
            raise NotRecordableError("a row index that is shifted after a difference")
        return self._derived(int(self) >> shift, self.shift + shift, 0)

    def __sub__(self, difference: int) -> "RowIndex":
        return self._derived(int(self) - difference, self.shift, self.offset - difference)

    def of(self, i: int) -> int:
        """The same of another row."""
        return (i >> self.shift) + self.offset

    def _derived(self, value: int, shift: int, offset: int) -> "RowIndex":
        index = RowIndex(value)
        index.shift, index.offset = shift, offset
        return index


class Emitter:
    """Emits instructions for tensors of a scan.

    Args:
        memory: of the scan.
        symbols: (B, C, H, W), whose rows are all the same memory.

    Attributes:
        instructions: of the block that is being recorded, so far.
        loads: what a row copies before it runs: (maps of all rows, the memory of one, which).
        row: the row of the symbols that may be read; the program has memory for one only.
    """

    def __init__(self, memory: Memory, symbols: Tensor) -> None:
        super().__init__()
        self.memory, self.symbols = memory, symbols
        self.instructions: list[list[int]] = []
        self.loads: list[tuple[Tensor, Tensor, RowIndex]] = []
        self.row: int | None = None
        self._rings: dict[int, tuple[list[Tensor], list[list[Tensor]]]] = {}
        self._pools: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._temporaries = self._pools[0]
        self._used = 0

    def new(self, *shape: int) -> Tensor:
        """Memory for a new tensor."""
        if self._used == len(self._temporaries) or self._temporaries[self._used].shape != shape:
            self._temporaries.insert(self._used, self.memory.new(*shape))
        self._used += 1
        return self._temporaries[self._used - 1]

    def emit(self, operation: str, out: Tensor, *inputs: Tensor) -> Tensor:
        """Record an element-wise operation: an instruction, or several where two strides are too few."""
        if not out.numel():
            return out
        dtype = self.memory.dtype
        if out.dtype != dtype or any(source.dtype != dtype for source in inputs):
            raise NotRecordableError(f"{operation} of {[str(t.dtype) for t in (out, *inputs)]}, not {dtype}")
        try:
            sizes, strides = lay_out(out, *inputs)
        except LayoutError:
            # Slice by slice along the shortest side, so that their number does not grow with the image's width.
            side = min((axis for axis, size in enumerate(out.shape) if size > 1), key=lambda axis: out.shape[axis])
            tensors = [out, *(source.expand(out.shape) for source in inputs)]
            for slices in zip(*(tensor.unbind(side) for tensor in tensors), strict=True):
                self.emit(operation, *slices)
            return out
        addresses = [self.memory.write(out), *map(self.memory.read, inputs)]
        self.append(operation, *sizes, 0, *zip(addresses, strides, strict=True))
        return out

    def append(self, operation: str, n0: int, n1: int, n2: int, k: int, *operands: tuple[int, Operand]) -> None:
        """Record an instruction: sizes, and for each operand an address and two strides."""
        instruction = [OPCODES[operation], n0, n1, n2, k]
        for address, strides in operands:
            instruction += (address, *strides)
        self.instructions.append(instruction + [0] * (len(FIELDS) - len(instruction)))

    def product(self, out: Tensor, a: Tensor, weight: Tensor, add: Tensor | None) -> Tensor:
        """Record out = a @ weight + add; a (m, k) or (groups, m, k)."""
        if not a.dtype == weight.dtype == out.dtype == self.memory.dtype:
            raise NotRecordableError(f"a product of {a.dtype} and {weight.dtype}, not {self.memory.dtype}")
        if not out.numel():
            return out
        if add is not None and add.shape != out.shape:
            add = add.expand(out.shape)
        n0, m, (out_rows, a_rows, add_rows) = rows_of(out, a, add)
        self.append(
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
        if id(rows) not in self._rings:
            ring = [self.memory.new(*rows.padded.shape) for _ in range(rows.rows)]
            kernels = [
                [kernel_matrix(kernel[:, :, None])] if rows.axis == 1 else [column.t() for column in kernel.unbind(2)]
                for kernel in rows.kernel.unbind(2)
            ]
            self._rings[id(rows)] = ring, kernels
            self.memory.read(rows.padded)
        return self._rings[id(rows)]


class LayoutError(NotRecordableError):
    """A tensor that needs more than two strides."""


def lay_out(out: Tensor, *inputs: Tensor, runs: bool = True) -> tuple[tuple[int, int, int], list[Operand]]:
    """Sizes n0 x n1 x n2 that visit every element, and each tensor's two outer strides; the n2 lie side by side in all of them.

    Args:
        out, inputs: inputs are expanded to out.
        runs: False takes elements one by one, n2 = 1, so that they need not lie side by side.

    Raises:
        LayoutError: the tensors need more strides.

    Example:
        >>> import torch
        >>> x = torch.zeros(8, 10, 6)
        >>> lay_out(x[:, 2:4], torch.zeros(6))
        ((8, 2, 6), [(60, 6), (0, 0)])
    """
    shape = out.shape
    tensors = [out, *(x if x.shape == shape else x.expand(shape) for x in inputs)]
    if len(shape) == 2 and runs:  # nearly always: rows of runs
        strides = [tensor.stride() for tensor in tensors]
        if all(inner == 1 for _, inner in strides):
            return (1, shape[0], shape[1]), [(0, outer) for outer, _ in strides]
    axes = merged(out.shape, [tensor.stride() for tensor in tensors])
    side_by_side = runs and axes and all(stride == 1 for stride in axes[-1][1])
    n2 = axes.pop()[0] if side_by_side else 1
    if len(axes) > 2:
        raise LayoutError(f"no two strides reach {[tuple(t.shape) for t in tensors]} at {[t.stride() for t in tensors]}")
    axes = [(1, [0] * len(tensors))] * (2 - len(axes)) + axes
    return (axes[0][0], axes[1][0], n2), list(zip(axes[0][1], axes[1][1], strict=True))


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The axes (size, stride in each tensor) that are left when neighbours that all tensors run through as one are one.

    Example:
        >>> merged((4, 5, 6), [(30, 6, 1), (0, 6, 1)])
        [(4, [30, 0]), (30, [1, 1])]
    """
    axes: list[tuple[int, list[int]]] = []
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if axes and all(outer == step * size for outer, step in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, steps)
        else:
            axes.append((size, steps))
    return axes


def rows_of(out: Tensor, a: Tensor, add: Tensor | None) -> tuple[int, int, list[Operand]]:
    """Groups and rows of a product, and the two strides of each of its matrices, whose rows must be runs of memory.

    Raises:
        LayoutError: rows are scattered, or lie in more than two strides.
    """
    tensors = [out, a] if add is None else [out, a, add]
    if out.dim() == 2:
        strides = [tensor.stride() for tensor in tensors]
        if all(inner == 1 for _, inner in strides):
            operands = [(0, outer) for outer, _ in strides]
            return 1, out.shape[0], operands if add is not None else [*operands, (0, 0)]
    if any(tensor.shape[-1] > 1 and tensor.stride(-1) != 1 for tensor in tensors):
        raise LayoutError(f"rows of a product are scattered: {[t.stride() for t in tensors]}")
    axes = merged(out.shape[:-1], [tensor.stride()[:-1] for tensor in tensors])
    if len(axes) > 2:
        raise LayoutError(f"rows of a product need more than two strides: {[t.stride() for t in tensors]}")
    axes = [(1, [0] * len(tensors))] * (2 - len(axes)) + axes
    operands = list(zip(axes[0][1], axes[1][1], strict=True))
    return axes[0][0], axes[1][0], operands if add is not None else [*operands, (0, 0)]
