"""How tensors lie in memory, said by two strides: what a line of a program can take."""

from collections.abc import Sequence

from torch import Tensor

from nextpixel.recording import NotRecordableError

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
