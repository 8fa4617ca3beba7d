"""What the recorder makes of each of torch's calls, and of the functions that it takes as one (`nextpixel.layers.recordable`).

A scan asks for little: products, sums, gates and copies on memory of its own. A call that is not in these tables has no record.

How tensors lie in memory, said by two strides: what a line of a program can take.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from nextpixel.compiled.instructions import OPERATIONS
from nextpixel.layers.grid import RowConvolution
from nextpixel.layers.heads import condition_row
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput, concat_elu, concat_elu_to, gated_activation_
from nextpixel.layers.recordable import NotRecordableError, repeat

if TYPE_CHECKING:
    from nextpixel.compiled.recorder import Recorder


def view(recorder: "Recorder", func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """A view as it is; of what torch would copy, a view of a copy."""
    result = func(x, *args, **kwargs)
    if not isinstance(result, Tensor) or result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return result
    if func not in MAY_COPY:
        raise NotRecordableError(f"{resolve_name(func) or func} that is no view")
    return func(recorder.emit("copy", recorder.new(*x.shape), x), *args, **kwargs)


def _getitem(recorder: "Recorder", x: Tensor, index: Any) -> Tensor:
    if x is recorder.symbols and index[2] != recorder.row:
        raise NotRecordableError(f"reads row {index[2]} of the symbols, where there is row {recorder.row} only")
    maps = index[-1] if isinstance(index, tuple) else None
    if not isinstance(maps, Tensor):
        return view(recorder, Tensor.__getitem__, x, index)
    if index[:-1] != (...,):
        raise NotRecordableError(f"x[{index}]")
    out, begin = recorder.new(*x.shape[:-1], len(maps)), 0
    for first, number in _runs(maps.tolist()):
        recorder.emit("copy", out.narrow(-1, begin, number), x.narrow(-1, first, number))
        begin += number
    return out


def _runs(indices: list[int]) -> list[tuple[int, int]]:
    """First and number of indices that follow one another.

    Example:
        >>> _runs([2, 3, 7])
        [(2, 2), (7, 1)]
    """
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs


def _number(recorder: "Recorder", value: Any, shape: torch.Size) -> Tensor:
    """A number as a tensor."""
    return value if isinstance(value, Tensor) else recorder.memory.constant(float(value), shape[-1] if shape else 1).expand(shape)


def _binary(operation: str, in_place: bool = False) -> Callable[..., Tensor]:
    def handler(recorder: "Recorder", a: Any, b: Any, *, out: Tensor | None = None) -> Tensor:
        a, b = (b, a) if not isinstance(a, Tensor) else (a, b)
        shape = torch.broadcast_shapes(a.shape, b.shape) if isinstance(b, Tensor) else a.shape
        if in_place:
            out = a
        elif out is None:
            out = recorder.new(*shape)
        if operation == "add" and in_place and isinstance(b, Tensor) and _is_product_s(recorder, a, b):
            return a
        return recorder.emit(operation, out, a, _number(recorder, b, shape))

    return handler


def _is_product_s(recorder: "Recorder", a: Tensor, b: Tensor) -> bool:
    """Whether a is what the last line, a product, gives: then b is made what its sums begin with, and needs no line."""
    line = recorder.lines[-1] if recorder.lines else None
    if line is None or line[0] != OPERATIONS["product"] or a.dim() != 2 or a.stride(1) != 1:
        return False
    out = [1, *a.shape], a.data_ptr(), a.stride(0)
    # Not where b is the result itself, whose sums would begin with what was there before it.
    if (line[1:4], line[5], line[7]) != out or line[14] or b.untyped_storage().data_ptr() == a.untyped_storage().data_ptr():
        return False
    try:
        _, _, (_, _, strides) = rows_of(a, a, b.expand(a.shape))
    except LayoutError:
        return False
    line[14:17] = [recorder.memory.read(b), *strides]
    return True


def _unary(operation: str, in_place: bool = False) -> Callable[..., Tensor]:
    def handler(recorder: "Recorder", x: Tensor, *, out: Tensor | None = None) -> Tensor:
        out = x if in_place else recorder.new(*x.shape) if out is None else out
        return recorder.emit(operation, out, x)

    return handler


def _elu(recorder: "Recorder", x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    if alpha != 1:
        raise NotRecordableError(f"elu with alpha {alpha}")
    return recorder.emit("elu", x if inplace else recorder.new(*x.shape), x)


def _addcmul(recorder: "Recorder", x: Tensor, a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return recorder.emit("addcmul", recorder.new(*x.shape) if out is None else out, x, a, b)


def _addcmul_(recorder: "Recorder", x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return recorder.emit("addcmul", x, x, a, b)


def _copy_(recorder: "Recorder", to: Tensor, x: Tensor) -> Tensor:
    if to.data_ptr() == x.data_ptr() and to.shape == x.shape and to.stride() == x.stride():
        return to  # a chooser has written the symbol where it belongs
    return recorder.emit("copy", to, x)


def _setitem(recorder: "Recorder", to: Tensor, index: Any, x: Any) -> None:
    to = _getitem(recorder, to, index)
    _copy_(recorder, to, _number(recorder, x, to.shape))


def _zero_(recorder: "Recorder", to: Tensor) -> Tensor:
    return _copy_(recorder, to, _number(recorder, 0, to.shape))


def _mm(recorder: "Recorder", a: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    return recorder.product(recorder.new(*a.shape[:-1], weight.shape[1]) if out is None else out, a, weight, None)


def _addmm(recorder: "Recorder", add: Tensor, a: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    return recorder.product(recorder.new(a.shape[0], weight.shape[1]) if out is None else out, a, weight, add)


def _addmm_(recorder: "Recorder", out: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    return recorder.product(out, a, weight, out)


def _cat(recorder: "Recorder", tensors: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    out, begin = recorder.new(*shape), 0
    for tensor in tensors:
        recorder.emit("copy", out.narrow(dim, begin, tensor.shape[dim]), tensor)
        begin += tensor.shape[dim]
    return out


def _stack(recorder: "Recorder", tensors: list[Tensor], dim: int = 0) -> Tensor:
    return _cat(recorder, [tensor.unsqueeze(dim) for tensor in tensors], dim)


def _gate(recorder: "Recorder", value: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    return recorder.emit("gate", value if out is None else out, value, gate)


def _intensity(recorder: "Recorder", encode: IntensityInput, x: Tensor) -> Tensor:
    out = recorder.new(*x.shape)
    (n0, n1, n2), (out_strides, x_strides) = lay_out(out, x, runs=False)
    step = (recorder.memory.read(encode.step), (0, 0))
    recorder.line(
        "intensity", n0, n1, n2, 0, (recorder.memory.write(out), out_strides), (recorder.memory.read(x), x_strides), step
    )
    return out


def _embedding(recorder: "Recorder", encode: EmbeddingInput, x: Tensor) -> Tensor:
    table = encode.table.weight.detach()
    size, batch, channels = table.shape[1], *x.shape[:2]
    symbols = x.reshape(batch, channels, -1)
    out = recorder.new(batch, symbols.shape[2], channels * size)
    for channel, vectors in enumerate(table.split(encode.levels)):
        to, of_channel = out[:, :, channel * size :], symbols[:, channel]
        recorder.line(
            "embedding",
            *of_channel.shape,
            size,
            encode.levels,
            (recorder.memory.write(to), (to.stride(0), to.stride(1))),
            (recorder.memory.read(of_channel), (of_channel.stride(0), of_channel.stride(1))),
            (recorder.memory.read(vectors), (0, 0)),
        )
    return out[:, 0] if x.dim() == 2 else out.transpose(1, 2)


def _condition_row(recorder: "Recorder", bias: Tensor, i: int) -> Tensor:
    if bias.shape[0] == 1:
        return bias[0]
    if not hasattr(i, "of"):
        raise NotRecordableError(f"row {i} of a condition's maps, reckoned from the row in a way that is not recorded")
    row = recorder.memory.new(*bias.shape[1:])
    recorder.memory.write(row)
    recorder.loads.append((bias, row, i))
    return row


def _take(recorder: "Recorder", rows: RowConvolution) -> None:
    ring, _ = recorder.ring(rows)
    for older, newer in pairwise(ring):
        recorder.emit("copy", older, newer)
    recorder.emit("copy", ring[-1], rows.padded)


def _convolve(recorder: "Recorder", rows: RowConvolution) -> Tensor:
    add = rows.bias
    for row, weights in zip(*recorder.ring(rows), strict=True):
        for column, weight in enumerate(weights):
            if rows.axis == 1:
                places = row.unfold(1, weight.shape[0] // row.shape[2], rows.stride).transpose(2, 3).flatten(2)
            else:
                places = row[column : column + rows.stride * (rows.out.shape[0] - 1) + 1 : rows.stride]
            recorder.product(rows.out, places, weight, add)
            add = rows.out
    return rows.out


def _concat_elu(recorder: "Recorder", out: Tensor, positive: Tensor, negative: Tensor, x: Tensor) -> Tensor:
    # Its second result stands where others have a second input.
    recorder.memory.write(negative)
    recorder.emit("concat_elu", positive, x, negative)
    return out


def _new_concat_elu(recorder: "Recorder", x: Tensor, dim: int = 1) -> Tensor:
    out = recorder.new(*(size * (1 + (axis == dim)) for axis, size in enumerate(x.shape)))
    return _concat_elu(recorder, out, *out.chunk(2, dim), x)


def _repeat(recorder: "Recorder", function: Callable[[int], None], times: int) -> None:
    recorder.repeat(function, times)


HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {
    gated_activation_: _gate,
    concat_elu_to: _concat_elu,
    concat_elu: _new_concat_elu,
    IntensityInput.forward: _intensity,
    EmbeddingInput.forward: _embedding,
    condition_row: _condition_row,
    RowConvolution.take: _take,
    RowConvolution.__call__: _convolve,
    repeat: _repeat,
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _binary("add")),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), _binary("add", in_place=True)),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _binary("mul")),
    **dict.fromkeys((Tensor.mul_, Tensor.__imul__), _binary("mul", in_place=True)),
    **dict.fromkeys((torch.neg, Tensor.neg, Tensor.__neg__), _unary("neg")),
    **dict.fromkeys((torch.relu, Tensor.relu, torch.nn.functional.relu), _unary("relu")),
    **dict.fromkeys((torch.relu_, Tensor.relu_), _unary("relu", in_place=True)),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid), _unary("sigmoid")),
    Tensor.sigmoid_: _unary("sigmoid", in_place=True),
    **dict.fromkeys((torch.tanh, Tensor.tanh), _unary("tanh")),
    Tensor.tanh_: _unary("tanh", in_place=True),
    torch.nn.functional.elu: _elu,
    **dict.fromkeys((torch.addcmul, Tensor.addcmul), _addcmul),
    Tensor.addcmul_: _addcmul_,
    Tensor.copy_: _copy_,
    Tensor.__getitem__: _getitem,
    Tensor.__setitem__: _setitem,
    Tensor.zero_: _zero_,
    **dict.fromkeys((torch.mm, torch.matmul, Tensor.mm, Tensor.matmul, Tensor.__matmul__), _mm),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _addmm),
    Tensor.addmm_: _addmm_,
    torch.cat: _cat,
    torch.stack: _stack,
}
VIEW_NAMES = """
    __len__ chunk contiguous detach dim expand flatten narrow numel permute reshape select size split squeeze stride t transpose
    unbind unflatten unsqueeze view
"""
VIEWS = {getattr(Tensor, name) for name in VIEW_NAMES.split()}
MAY_COPY = {Tensor.contiguous, Tensor.flatten, Tensor.reshape}


Operand = tuple[int, int]


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
