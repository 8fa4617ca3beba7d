r"""The recurrence of both PixelRNNs (arXiv:1601.06759, section 3): an LSTM that runs from line to line of the image.

.. math:: [o, f, i, g] = \sigma(x + K^{ss} h_{earlier}), \quad c = f \odot c_{earlier} + i \odot g, \quad h = o \odot \tanh(c)

(equation 3; the non-linearity of g is a tanh). A line holds the places that can be computed side by side:

    Row LSTM        a line is a row: H lines              Diagonal LSTM    a line is a diagonal: W + H - 1 lines

      0 0 0 0       state-to-state from the row above       0 1 2 3        from the left (h and c) and from above (h)
      1 1 1 1       (h from k of its places, c from one)    1 2 3 4
      2 2 2 2                                               2 3 4 5

The diagonals are the columns of the paper's skewed map. Here they lie one after the other in memory, without the skew's dead
cells: a line of n places is n * B neighbouring numbers of each map, and what lies outside the image is a few zeros around it. All
work that does not wait for an earlier line stands outside the loop as one product: input-to-state before it, the gradient of K
after it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lines:
    """How the places of an H x W image lie in memory, line by line, and where each line finds the earlier states.

    Args:
        lines: (start, places, starts of the taps that h is read from, start of the places that c is read from) of each line.
        size: places of the memory, those outside the image included.
        places: where each place of the image stands, in raster order, (H * W).
        image: the place of the image that stands at each place of the memory; any place for those outside it, (size).
        taps: where each place finds each of its earlier h, (K, H * W).
        before: (start, places) of the initial state, if the image has one.
    """

    lines: list[tuple[int, int, tuple[int, ...], int]]
    size: int
    places: Tensor
    image: Tensor
    taps: Tensor
    before: tuple[int, int] | None = None


@lru_cache(maxsize=64)
def rows(height: int, width: int, kernel_size: int, device: torch.device) -> Lines:
    """Lines of a Row LSTM: each place reads `kernel_size` places of the row above, the middle one straight above it.

    Example:
        >>> rows(2, 3, 3, torch.device("cpu")).places.tolist()
        [6, 7, 8, 11, 12, 13]
    """
    side, pitch = kernel_size // 2, width + 2 * (kernel_size // 2)
    lines = [
        ((i + 1) * pitch + side, width, tuple(i * pitch + v for v in range(kernel_size)), i * pitch + side) for i in range(height)
    ]
    i, j = _raster(height, width, device)
    taps = torch.stack([i * pitch + j + v for v in range(kernel_size)])
    size, places = (height + 1) * pitch, (i + 1) * pitch + side + j
    return Lines(lines, size, places, _inverse(places, size), taps, before=(side, width))


@lru_cache(maxsize=64)
def diagonals(height: int, width: int, device: torch.device) -> Lines:
    """Lines of a Diagonal LSTM: each place reads h of the place to its left and of the one above, and c of the left one.

    Line t holds the places with i + j = t, from above to below, between two that lie outside the image.

    Example:
        >>> diagonals(2, 2, torch.device("cpu")).places.tolist()
        [1, 4, 5, 8]
    """
    lines: list[tuple[int, int, tuple[int, ...], int]] = []
    start, first, origin = 1, 0, []  # of the line before: its start and its first row
    for t in range(height + width - 1):
        top, bottom = max(0, t - width + 1), min(t, height - 1)
        if lines:
            left = lines[-1][0] + top - first
            lines.append((start, bottom - top + 1, (left, left - 1), left))
        else:  # zeros
            lines.append((start, 1, (0, 0), 0))
        first = top
        origin.append(start - top)
        start += bottom - top + 3
    i, j = _raster(height, width, device)
    offset = torch.tensor(origin, device=device)
    places = offset[i + j] + i
    # The line before starts at offset[t - 1]; before the first line there are only zeros, of which place 0 is one.
    before = offset[(i + j - 1).clamp(min=0)]
    corner = i + j == 0
    taps = torch.stack([torch.where(corner, 0, before + i), torch.where(corner, 0, before + i - 1)])
    return Lines(lines, start - 1, places, _inverse(places, start - 1), taps)


def _inverse(places: Tensor, size: int) -> Tensor:
    return places.new_zeros(size).index_copy_(0, places, torch.arange(len(places), device=places.device))


def _raster(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each place in raster order."""
    place = torch.arange(height * width, device=device)
    return place // width, place % width


def lstm(inputs: Tensor, weight: Tensor, lines: Lines, initial: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Run D independent LSTMs over the lines of B images, side by side.

    Args:
        inputs: what input-to-state has found for the gates o, f, i, g, (D, 4F, H * W, B).
        weight: K of the gates, (D, 4F, K * F): F columns for each tap.
        lines: the order of places, from `rows` or `diagonals`.
        initial: (h, c) before the first line, (D, F) each, for every place of a line; zero by default.

    Returns:
        h of every place, (D, F, H * W, B), in the type of `weight`.

    Example:
        >>> lstm(torch.zeros(1, 8, 12, 5), torch.zeros(1, 8, 6), rows(3, 4, 3, torch.device("cpu"))).shape
        torch.Size([1, 2, 12, 5])
    """
    if initial is None:
        zeros = weight.new_zeros(weight.shape[0], weight.shape[1] // 4)
        initial = (zeros, zeros)
    # Autocast rounds what convolutions give; a state that is summed up over a whole image keeps the weights' precision.
    return _Run.apply(inputs.to(weight.dtype), weight, *initial, lines)[0]


class _Run(torch.autograd.Function):
    """The recurrence with its gradient, which torch's own record of it would make three times as slow."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, lines: Lines) -> tuple[Tensor, ...]:
        count, maps, _, batch = inputs.shape
        features = maps // 4
        # tanh(x) = 2 sigmoid(2x) - 1, since torch's tanh takes five times as long on a processor: double the rows of g.
        twice = weight.new_ones(maps, 1)
        twice[3 * features :] = 2
        weight = weight * twice
        gates = inputs.index_select(2, lines.image)
        gates.narrow(1, 3 * features, features).mul_(2)
        h, c, tanh_c = (inputs.new_zeros(count, features, lines.size, batch) for _ in range(3))
        if lines.before is not None:
            h.narrow(2, *lines.before).copy_(h0[..., None, None])
            c.narrow(2, *lines.before).copy_(c0[..., None, None])
        flat_gates, flat_h, flat_c, flat_tanh_c = (memory.flatten(2) for memory in (gates, h, c, tanh_c))
        for start, places, taps, cell in lines.lines:
            size = places * batch
            earlier = torch.cat([flat_h.narrow(2, tap * batch, size) for tap in taps], 1)
            line = flat_gates.narrow(2, start * batch, size)
            line.baddbmm_(weight, earlier).sigmoid_()
            output, forget, write, new = line.chunk(4, 1)
            new.mul_(2).sub_(1)
            here = flat_c.narrow(2, start * batch, size)
            torch.mul(forget, flat_c.narrow(2, cell * batch, size), out=here).addcmul_(write, new)
            squashed = torch.mul(here, 2, out=flat_tanh_c.narrow(2, start * batch, size)).sigmoid_().mul_(2).sub_(1)
            torch.mul(output, squashed, out=flat_h.narrow(2, start * batch, size))
        return h.index_select(2, lines.places), gates, h, c, tanh_c

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, _, _, ctx.lines = inputs
        ctx.save_for_backward(weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_h is None:
            return None, None, None, None, None
        weight, gates, h, c, tanh_c = ctx.saved_tensors
        grad_inputs, grad_h0, grad_c0 = _Gradient.apply(grad_h, weight, gates, c, tanh_c, ctx.lines)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            earlier = torch.cat([h.index_select(2, tap) for tap in ctx.lines.taps], 1)
            grad_weight = grad_inputs.flatten(2) @ earlier.flatten(2).transpose(1, 2)
        return grad_inputs, grad_weight, grad_h0, grad_c0, None


class _Gradient(torch.autograd.Function):
    """Backpropagation through the lines, from the last to the first; a function of its own, so that it can be mapped."""

    @staticmethod
    def forward(grad_h: Tensor, weight: Tensor, gates: Tensor, c: Tensor, tanh_c: Tensor, lines: Lines) -> tuple[Tensor, ...]:
        batch, features = grad_h.shape[3], grad_h.shape[1]
        dh = grad_h.index_select(2, lines.image)
        if lines.before is not None:
            dh.narrow(2, *lines.before).zero_()
        dc, dgates = torch.zeros_like(c), torch.empty_like(gates)
        transposed = weight.transpose(1, 2).split(features, 1)
        flat = [memory.flatten(2) for memory in (gates, c, tanh_c, dgates, dh, dc)]
        for start, places, taps, cell in reversed(lines.lines):
            size = places * batch
            line, _, squashed, d_line, d_h, d_c = (memory.narrow(2, start * batch, size) for memory in flat)
            output, forget, write, new = line.chunk(4, 1)
            d_output, d_forget, d_write, d_new = d_line.chunk(4, 1)
            torch.mul(d_h, squashed, out=d_output)
            d_c.add_(torch.ops.aten.tanh_backward(d_h * output, squashed))
            torch.mul(d_c, flat[1].narrow(2, cell * batch, size), out=d_forget)
            torch.mul(d_c, new, out=d_write)
            torch.mul(d_c, write, out=d_new)
            sigmoids, d_sigmoids = line.narrow(1, 0, 3 * features), d_line.narrow(1, 0, 3 * features)
            torch.ops.aten.sigmoid_backward(d_sigmoids, sigmoids, grad_input=d_sigmoids)
            torch.ops.aten.tanh_backward(d_new, new, grad_input=d_new)
            torch.mul(d_c, forget, out=flat[5].narrow(2, cell * batch, size))
            for tap, kernel in zip(taps, transposed, strict=True):
                flat[4].narrow(2, tap * batch, size).baddbmm_(kernel, d_line)
        initial = [
            grad_h.new_zeros(c.shape[:2]) if lines.before is None else memory.narrow(2, *lines.before).sum((2, 3))
            for memory in (dh, dc)
        ]
        return dgates.index_select(2, lines.places), *initial

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise RuntimeError("the LSTM of a PixelRNN has no second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """One after the other: it serves Jacobians of small images."""
        results = [
            _Gradient.apply(*(x if dim is None else x.select(dim, k) for x, dim in zip(inputs, in_dims, strict=True)))
            for k in range(info.batch_size)
        ]
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0, 0, 0)
