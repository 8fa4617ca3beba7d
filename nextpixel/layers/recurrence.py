r"""The recurrence of both PixelRNNs (arXiv:1601.06759, section 3): an LSTM that runs from line to line of the image.

.. math:: [o, f, i, g] = \sigma(x + K^{ss} h_{earlier}), \quad c = f \odot c_{earlier} + i \odot g, \quad h = o \odot \tanh(c)

(equation 3; the non-linearity of g is a tanh). A line holds the places that can be computed side by side:

    Row LSTM        a line is a row: H lines              Diagonal LSTM    a line is a diagonal: W + H - 1 lines

      0 0 0 0       state-to-state from the row above       0 1 2 3        from the left (h and c) and from above (h)
      1 1 1 1       (h from k of its places, c from one)    1 2 3 4
      2 2 2 2                                               2 3 4 5

The diagonals are the columns of the paper's skewed map. Here lines lie one after the other in memory, (F, size, B), without the
skew's dead cells: a line of n places is n * B neighbouring numbers of each map, and what lies outside the image is a few zeros
around it. Everything that does not wait for an earlier line, above all input-to-state, is done for all lines by one product.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Line = tuple[int, int, tuple[int, ...], int]


class Lines(ABC):
    """How the places of an H x W image lie in memory, line by line, and where each line finds the earlier states.

    Attributes:
        lines: (start, places, starts of the taps that h is read from, start of the places that c is read from) of each line.
        size: places of the memory, those outside the image included.
        before: (start, places) of the state before the first line; it holds no place of the image.
    """

    lines: list[Line]
    size: int
    before: tuple[int, int]

    @abstractmethod
    def pack(self, x: Tensor) -> Tensor:
        """Maps (F, H, W, B) to lines (F, size, B)."""

    @abstractmethod
    def unpack(self, x: Tensor) -> Tensor:
        """Lines (F, size, B) to maps (F, H, W, B)."""


class Rows(Lines):
    """Lines of a Row LSTM: each place reads `kernel_size` places of the row above, the middle one straight above it.

    Example:
        >>> Rows(2, 3, kernel_size=3).pack(torch.ones(1, 2, 3, 1)).flatten().int().tolist()
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0]
    """

    def __init__(self, height: int, width: int, kernel_size: int) -> None:
        self.height, self.width, self.side = height, width, kernel_size // 2
        pitch = width + 2 * self.side
        self.lines = [
            (
                (i + 1) * pitch + self.side,
                width,
                tuple(i * pitch + v for v in range(kernel_size)),
                i * pitch + self.side,
            )
            for i in range(height)
        ]
        self.size, self.before = (height + 1) * pitch, (self.side, width)

    def pack(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, self.side, self.side, 1, 0)).flatten(1, 2)

    def unpack(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.height + 1, -1))[:, 1:, self.side : self.side + self.width]


class Diagonals(Lines):
    """Lines of a Diagonal LSTM: each place reads h of the place to its left and of the one above, and c of the left one.

    Line t holds the places with i + j = t, from above to below, between two that lie outside the image. Mirrored, columns count
    from the right: the lines of the LSTM that runs from right to left.

    Example:
        >>> Diagonals(2, 2, mirrored=False).unpack(torch.arange(10.0).view(1, 10, 1)).flatten().int().tolist()
        [1, 4, 5, 8]
    """

    def __init__(self, height: int, width: int, mirrored: bool, device: torch.device | str = "cpu") -> None:
        self.lines = [(1, 1, (0, 0), 0)]  # the corner reads zeros
        starts = [1]  # where row 0 of each line stands, or would
        for t in range(1, height + width - 1):
            (start, places, _, _), top, top_before = self.lines[-1], max(0, t - width + 1), max(0, t - width)
            left = start + top - top_before
            start += places + 2
            self.lines.append((start, min(t, height - 1) - top + 1, (left, left - 1), left))
            starts.append(start - top)
        self.size, self.before, self.shape = self.lines[-1][0] + self.lines[-1][1] + 1, (0, 1), (height, width)
        # Ordinary tensors, in every mode of the first call: those made in inference mode could not be used outside it.
        with torch.inference_mode(False), torch.device(device):
            i, j = torch.arange(height)[:, None], torch.arange(width)
            columns = j.flip(0) if mirrored else j
            self.places = (torch.tensor(starts)[i + columns] + i).flatten()
            # The place of the image at each place of the memory; any one for those outside it, which are never read.
            self.image = torch.zeros(self.size, dtype=torch.long).index_copy_(0, self.places, torch.arange(height * width))

    def pack(self, x: Tensor) -> Tensor:
        return _Permute.apply(x.flatten(1, 2), self.image, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        return _Permute.apply(x, self.places, self.image).unflatten(1, self.shape)


# Made once per size: a scan of the same images is a long loop in Python to plan.
rows, diagonals = lru_cache(maxsize=64)(Rows), lru_cache(maxsize=64)(Diagonals)


class _Permute(torch.autograd.Function):
    """Places taken in another order. Its gradient is taken in the order back, several times as fast as torch's sum of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        return x.index_select(1, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Permute.apply(grad, back, order), None, None


def batch_last(x: Tensor) -> Tensor:
    """Maps (B, F, H, W) as (F, H, W, B): the memory in which lines are long runs of numbers."""
    return x.permute(1, 2, 3, 0)


def batch_first(x: Tensor) -> Tensor:
    """Maps (F, H, W, B) as (B, F, H, W); their memory stays as it is, which the next layer is glad of."""
    return x.permute(3, 0, 1, 2)


def product(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 layer on maps with the batch last: weight (out, in) and x (in, ..., B) give (out, ..., B).

    Example:
        >>> product(torch.ones(8, 2), torch.ones(2, 3, 4, 5)).shape
        torch.Size([8, 3, 4, 5])
    """
    y = weight @ x.flatten(1) if bias is None else torch.addmm(bias[:, None], weight, x.flatten(1))
    return y.unflatten(1, x.shape[1:])


@torch.compiler.disable  # which would unroll the loop and compile it for minutes
def lstm(inputs: Tensor, weight: Tensor, lines: Lines, initial: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Run D independent LSTMs over the lines of B images, side by side.

    Args:
        inputs: what input-to-state has found for the gates o, f, i, g, (D, 4F, size, B).
        weight: K of the gates, (D, 4F, K * F): F columns for each tap.
        lines: where the places are.
        initial: (h, c) before the first line, (D, F) each, for all its places; zero by default.

    Returns:
        h of every place, (D, F, size, B), in the type of `weight`; those outside the image hold nothing of use.

    Example:
        >>> lines = Rows(3, 4, kernel_size=3)
        >>> lstm(torch.zeros(1, 8, lines.size, 5), torch.zeros(1, 8, 6), lines).shape == (1, 2, lines.size, 5)
        True
    """
    if initial is None:
        zeros = weight.new_zeros(weight.shape[0], weight.shape[1] // 4)
        initial = (zeros, zeros)
    # Autocast rounds what products give; a state that is summed up over a whole image keeps the weights' precision.
    return _Run.apply(inputs.to(weight.dtype), weight, *initial, lines)[0]


class _Run(torch.autograd.Function):
    """The recurrence, with a gradient of its own: torch's record of it would hold a hundred tensors for every line."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, lines: Lines) -> tuple[Tensor, ...]:
        features, batch = inputs.shape[1] // 4, inputs.shape[3]
        gates = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        h, c, tanh_c = (inputs.new_zeros(len(inputs), features, *inputs.shape[2:]) for _ in range(3))
        h.narrow(2, *lines.before).copy_(h0[..., None, None])
        c.narrow(2, *lines.before).copy_(c0[..., None, None])
        flat_inputs, flat_gates, flat_h, flat_c, flat_tanh_c = (memory.flatten(2) for memory in (inputs, gates, h, c, tanh_c))
        for start, places, taps, cell in lines.lines:
            size, start = places * batch, start * batch
            earlier = torch.cat([flat_h.narrow(2, tap * batch, size) for tap in taps], 1)
            line = flat_gates.narrow(2, start, size)
            torch.baddbmm(flat_inputs.narrow(2, start, size), weight, earlier, out=line)
            output, forget, write, new = line.chunk(4, 1)
            # tanh(x) = 2 sigmoid(2x) - 1: on a processor torch's tanh takes five times as long as its sigmoid
            new.mul_(2)
            line.sigmoid_()
            new.mul_(2).sub_(1)
            here = flat_c.narrow(2, start, size)
            torch.mul(forget, flat_c.narrow(2, cell * batch, size), out=here).addcmul_(write, new)
            squashed = torch.mul(here, 2, out=flat_tanh_c.narrow(2, start, size)).sigmoid_().mul_(2).sub_(1)
            torch.mul(output, squashed, out=flat_h.narrow(2, start, size))
        return h, gates, c, tanh_c

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.lines = inputs[4]
        ctx.save_for_backward(inputs[1], *output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradient.apply(grad_h, *ctx.saved_tensors, ctx.lines), None


class _Gradient(torch.autograd.Function):
    """Backpropagation through the lines, from the last to the first; a function of its own, so that it can be mapped."""

    @staticmethod
    def forward(
        grad_h: Tensor, weight: Tensor, h: Tensor, gates: Tensor, c: Tensor, tanh_c: Tensor, lines: Lines
    ) -> tuple[Tensor, ...]:
        batch, features = grad_h.shape[3], grad_h.shape[1]
        dh, dc, d_weight = grad_h.clone(memory_format=torch.contiguous_format), torch.zeros_like(c), torch.zeros_like(weight)
        dgates = torch.zeros_like(gates)
        backward, d_kernels = weight.transpose(1, 2).split(features, 1), d_weight.split(features, 2)
        flat_h, flat_gates, flat_c, flat_tanh_c, flat_dgates, flat_dh, flat_dc = (
            memory.flatten(2) for memory in (h, gates, c, tanh_c, dgates, dh, dc)
        )
        for start, places, taps, cell in reversed(lines.lines):
            size, start = places * batch, start * batch
            line, d_line, squashed, d_h, d_c = (
                memory.narrow(2, start, size) for memory in (flat_gates, flat_dgates, flat_tanh_c, flat_dh, flat_dc)
            )
            output, forget, write, new = line.chunk(4, 1)
            d_output, d_forget, d_write, d_new = d_line.chunk(4, 1)
            torch.mul(d_h, squashed, out=d_output)
            d_c.add_(torch.ops.aten.tanh_backward(d_h * output, squashed))
            torch.mul(d_c, flat_c.narrow(2, cell * batch, size), out=d_forget)
            torch.mul(d_c, new, out=d_write)
            torch.mul(d_c, write, out=d_new)
            sigmoids, d_sigmoids = line.narrow(1, 0, 3 * features), d_line.narrow(1, 0, 3 * features)
            torch.ops.aten.sigmoid_backward(d_sigmoids, sigmoids, grad_input=d_sigmoids)
            torch.ops.aten.tanh_backward(d_new, new, grad_input=d_new)
            torch.mul(d_c, forget, out=flat_dc.narrow(2, cell * batch, size))
            for tap, kernel, d_kernel in zip(taps, backward, d_kernels, strict=True):
                d_kernel.baddbmm_(d_line, flat_h.narrow(2, tap * batch, size).transpose(1, 2))
                flat_dh.narrow(2, tap * batch, size).baddbmm_(kernel, d_line)
        return dgates, d_weight, *(memory.narrow(2, *lines.before).sum((2, 3)) for memory in (dh, dc))

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
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0, 0, 0, 0)
