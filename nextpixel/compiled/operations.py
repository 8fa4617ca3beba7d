"""How each of torch's calls, and of the `recordable` functions, becomes instructions.

A scan makes few kinds of calls: products, sums, gates and copies on memory of its own. A call that is not in `OPERATIONS` or
`VIEWS` cannot be recorded.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import resolve_name

from nextpixel.compiled.emitter import Emitter, LayoutError, lay_out, rows_of
from nextpixel.compiled.instructions import OPCODES, NotRecordableError
from nextpixel.layers.conditioning import condition_row
from nextpixel.layers.grid import RowConvolution
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput, concat_elu, concat_elu_to, gated_activation_


def view(emitter: Emitter, func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """A view as it is; of what torch would copy, a view of a copy."""
    result = func(x, *args, **kwargs)
    if not isinstance(result, Tensor) or result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return result
    if func not in MAY_COPY:
        raise NotRecordableError(f"{resolve_name(func) or func} that is no view")
    return func(emitter.emit("copy", emitter.new(*x.shape), x), *args, **kwargs)


def _getitem(emitter: Emitter, x: Tensor, index: Any) -> Tensor:
    if x is emitter.symbols and index[2] != emitter.row:
        raise NotRecordableError(f"reads row {index[2]} of the symbols, where there is row {emitter.row} only")
    maps = index[-1] if isinstance(index, tuple) else None
    if not isinstance(maps, Tensor):
        return view(emitter, Tensor.__getitem__, x, index)
    if index[:-1] != (...,):
        raise NotRecordableError(f"x[{index}]")
    out, begin = emitter.new(*x.shape[:-1], len(maps)), 0
    for first, number in _runs(maps.tolist()):
        emitter.emit("copy", out.narrow(-1, begin, number), x.narrow(-1, first, number))
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


def _number(emitter: Emitter, value: Any, shape: torch.Size) -> Tensor:
    """A number as a tensor."""
    return value if isinstance(value, Tensor) else emitter.memory.constant(float(value), shape[-1] if shape else 1).expand(shape)


def _binary(operation: str, in_place: bool = False) -> Callable[..., Tensor]:
    def handler(emitter: Emitter, a: Any, b: Any, *, out: Tensor | None = None) -> Tensor:
        a, b = (b, a) if not isinstance(a, Tensor) else (a, b)
        shape = torch.Size(np.broadcast_shapes(a.shape, b.shape)) if isinstance(b, Tensor) else a.shape
        if in_place:
            out = a
        elif out is None:
            out = emitter.new(*shape)
        if operation == "add" and in_place and isinstance(b, Tensor) and _starts_product_with(emitter, a, b):
            return a
        return emitter.emit(operation, out, a, _number(emitter, b, shape))

    return handler


def _starts_product_with(emitter: Emitter, a: Tensor, b: Tensor) -> bool:
    """Whether a is the result of the last instruction, a product: then its sums start with b, and nothing is added."""
    last = emitter.instructions[-1] if emitter.instructions else None
    if last is None or last[0] != OPCODES["product"] or a.dim() != 2 or a.stride(1) != 1:
        return False
    out = [1, *a.shape], a.data_ptr(), a.stride(0)
    # Not where b is the result itself, whose sums would begin with what was there before it.
    if (last[1:4], last[5], last[7]) != out or last[14] or b.untyped_storage().data_ptr() == a.untyped_storage().data_ptr():
        return False
    try:
        _, _, (_, _, strides) = rows_of(a, a, b.expand(a.shape))
    except LayoutError:
        return False
    last[14:17] = [emitter.memory.read(b), *strides]
    return True


def _unary(operation: str, in_place: bool = False) -> Callable[..., Tensor]:
    def handler(emitter: Emitter, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        out = x if in_place else emitter.new(*x.shape) if out is None else out
        return emitter.emit(operation, out, x)

    return handler


def _elu(emitter: Emitter, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    if alpha != 1:
        raise NotRecordableError(f"elu with alpha {alpha}")
    return emitter.emit("elu", x if inplace else emitter.new(*x.shape), x)


def _addcmul(emitter: Emitter, x: Tensor, a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return emitter.emit("addcmul", emitter.new(*x.shape) if out is None else out, x, a, b)


def _addcmul_(emitter: Emitter, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return emitter.emit("addcmul", x, x, a, b)


def _copy_(emitter: Emitter, to: Tensor, x: Tensor) -> Tensor:
    if to.data_ptr() == x.data_ptr() and to.shape == x.shape and to.stride() == x.stride():
        return to  # a chooser has already written the symbol there
    return emitter.emit("copy", to, x)


def _setitem(emitter: Emitter, to: Tensor, index: Any, x: Any) -> None:
    to = _getitem(emitter, to, index)
    _copy_(emitter, to, _number(emitter, x, to.shape))


def _zero_(emitter: Emitter, to: Tensor) -> Tensor:
    return _copy_(emitter, to, _number(emitter, 0, to.shape))


def _mm(emitter: Emitter, a: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    return emitter.product(emitter.new(*a.shape[:-1], weight.shape[1]) if out is None else out, a, weight, None)


def _addmm(emitter: Emitter, add: Tensor, a: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    return emitter.product(emitter.new(a.shape[0], weight.shape[1]) if out is None else out, a, weight, add)


def _addmm_(emitter: Emitter, out: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    return emitter.product(out, a, weight, out)


def _cat(emitter: Emitter, tensors: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    out, begin = emitter.new(*shape), 0
    for tensor in tensors:
        emitter.emit("copy", out.narrow(dim, begin, tensor.shape[dim]), tensor)
        begin += tensor.shape[dim]
    return out


def _stack(emitter: Emitter, tensors: list[Tensor], dim: int = 0) -> Tensor:
    return _cat(emitter, [tensor.unsqueeze(dim) for tensor in tensors], dim)


def _gate(emitter: Emitter, value: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    return emitter.emit("gate", value if out is None else out, value, gate)


def _intensity(emitter: Emitter, encode: IntensityInput, x: Tensor) -> Tensor:
    out = emitter.new(*x.shape)
    (n0, n1, n2), (out_strides, x_strides) = lay_out(out, x, runs=False)
    step = (emitter.memory.read(encode.step), (0, 0))
    emitter.append(
        "intensity", n0, n1, n2, 0, (emitter.memory.write(out), out_strides), (emitter.memory.read(x), x_strides), step
    )
    return out


def _embedding(emitter: Emitter, encode: EmbeddingInput, x: Tensor) -> Tensor:
    table = encode.table.weight.detach()
    size, batch, channels = table.shape[1], *x.shape[:2]
    symbols = x.reshape(batch, channels, -1)
    out = emitter.new(batch, symbols.shape[2], channels * size)
    for channel, vectors in enumerate(table.split(encode.levels)):
        to, of_channel = out[:, :, channel * size :], symbols[:, channel]
        emitter.append(
            "embedding",
            *of_channel.shape,
            size,
            encode.levels,
            (emitter.memory.write(to), (to.stride(0), to.stride(1))),
            (emitter.memory.read(of_channel), (of_channel.stride(0), of_channel.stride(1))),
            (emitter.memory.read(vectors), (0, 0)),
        )
    return out[:, 0] if x.dim() == 2 else out.transpose(1, 2)


def _condition_row(emitter: Emitter, bias: Tensor, i: int) -> Tensor:
    if bias.shape[0] == 1:
        return bias[0]
    if not hasattr(i, "of"):
        raise NotRecordableError(f"row {i} of a condition's maps, derived from the row in a way that is not recorded")
    row = emitter.memory.new(*bias.shape[1:])
    emitter.memory.write(row)
    emitter.loads.append((bias, row, i))
    return row


def _take(emitter: Emitter, rows: RowConvolution) -> None:
    ring, _ = emitter.ring(rows)
    for older, newer in pairwise(ring):
        emitter.emit("copy", older, newer)
    emitter.emit("copy", ring[-1], rows.padded)


def _convolve(emitter: Emitter, rows: RowConvolution) -> Tensor:
    add = rows.bias
    for row, weights in zip(*emitter.ring(rows), strict=True):
        for column, weight in enumerate(weights):
            if rows.axis == 1:
                places = row.unfold(1, weight.shape[0] // row.shape[2], rows.stride).transpose(2, 3).flatten(2)
            else:
                places = row[column : column + rows.stride * (rows.out.shape[0] - 1) + 1 : rows.stride]
            emitter.product(rows.out, places, weight, add)
            add = rows.out
    return rows.out


def _concat_elu(emitter: Emitter, out: Tensor, positive: Tensor, negative: Tensor, x: Tensor) -> Tensor:
    # Its second result takes the field of a second input.
    emitter.memory.write(negative)
    emitter.emit("concat_elu", positive, x, negative)
    return out


def _new_concat_elu(emitter: Emitter, x: Tensor, dim: int = 1) -> Tensor:
    out = emitter.new(*(size * (1 + (axis == dim)) for axis, size in enumerate(x.shape)))
    return _concat_elu(emitter, out, *out.chunk(2, dim), x)


OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    gated_activation_: _gate,
    concat_elu_to: _concat_elu,
    concat_elu: _new_concat_elu,
    IntensityInput.forward: _intensity,
    EmbeddingInput.forward: _embedding,
    condition_row: _condition_row,
    RowConvolution.take: _take,
    RowConvolution.__call__: _convolve,
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
