"""Layers without neighbours: what they do to a map they do to one place of it, so one function serves both paths.

A recorder of torch's calls (`nextpixel.compiled.recorder`) takes a `recordable` function as one call, by torch's own dispatch
(`torch.overrides`), whose state belongs to each thread.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

Function = TypeVar("Function", bound=Callable[..., Any])


def recordable(function: Function) -> Function:
    """While a `TorchFunctionMode` is active, the call is dispatched to it as a call of torch's would be, and only to it.

    Example:
        >>> @recordable
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(x=3)
        6
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # A mode takes calls with arguments of any type, so one argument shows whether there is one.
        one = args[-1:] or tuple(kwargs.values())[:1]
        if has_torch_function(one):
            return handle_torch_function(call, one, *args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@recordable
def repeat(function: Callable[[int], None], times: int) -> None:
    """function(0), function(1), ... as one call, whose record may be shorter than its turns.

    Example:
        >>> repeat(print, 2)
        0
        1
    """
    for k in range(times):
        function(k)


def gated_activation(x: Tensor, dim: int = 1) -> Tensor:
    r"""The gate of Gated PixelCNN, :math:`\tanh(x_1) \odot \sigma(x_2)` (arXiv:1606.05328, equation 2).

    Shapes:
        x: 2p maps along `dim`, first the p of the tanh, then the p of the sigmoid; the result has p.

    Example:
        >>> gated_activation(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """
    value, gate = x.chunk(2, dim)
    return torch.tanh(value) * torch.sigmoid(gate)


@recordable
def gated_activation_(value: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    """The same from both halves, whose memory it spoils, into `out` or that of `value`: a scan needs no gradients, and new
    memory costs time.

    Example:
        >>> x = torch.randn(3, 8)
        >>> torch.equal(gated_activation(x), gated_activation_(*x.clone().chunk(2, 1)))
        True
    """
    return torch.mul(value.tanh_(), gate.sigmoid_(), out=value if out is None else out)


@recordable
def concat_elu(x: Tensor, dim: int = 1) -> Tensor:
    r"""The non-linearity of PixelCNN++, :math:`[\mathrm{elu}(x), \mathrm{elu}(-x)]` (arXiv:1701.05517, the authors' code).

    Shapes:
        x: p maps along `dim`; the result has 2p.

    Example:
        >>> concat_elu(torch.tensor([[2.0]]))
        tensor([[ 2.0000, -0.8647]])
    """
    return _ConcatElu.apply(x, dim)


class _ConcatElu(torch.autograd.Function):
    """Its gradient without a mask: compiled code would keep one of bools, which a processor's vectors are slow to write."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return F.elu(torch.cat([x, -x], dim))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.dim = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        positive, negative = grad.chunk(2, ctx.dim)
        return positive * x.clamp(max=0).exp() - negative * x.clamp(min=0).neg().exp(), None


@recordable
def concat_elu_to(out: Tensor, positive: Tensor, negative: Tensor, x: Tensor) -> Tensor:
    """The same into `out`, whose halves are `positive` and `negative`; x may be `positive` itself.

    Example:
        >>> x, out = torch.randn(3, 4), torch.empty(3, 8)
        >>> torch.equal(concat_elu_to(out, *out.chunk(2, 1), x), concat_elu(x))
        True
    """
    torch.neg(x, out=negative)
    if x is not positive:
        positive.copy_(x)
    return F.elu(out, inplace=True)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    r"""Element-wise dropout: each number of x is 0 with probability p, and else :math:`x / (1 - p)`.

    p is rounded to a multiple of 1/256: a byte decides about a number, so that one 32-bit random number serves four.

    Example:
        >>> dropout(torch.ones(2, 8, 4, 5), 0.5, training=True).unique()
        tensor([0., 2.])
    """
    kept = max(1, round((1 - p) * 256))
    if not training or kept == 256:
        return x
    numbers = _random_int32(-(-x.numel() // 4), x.device)
    random = numbers.view(torch.uint8)[: x.numel()]
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        random = random.view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
    # 1 or 0 by arithmetic in x's type, which holds 0..256 exactly: compiled code would write a mask of bools, slowly.
    keep = (kept - random.reshape(x.shape).to(x.dtype)).clamp(0, 1)
    return x * keep * (256 / kept)


def _random_int32(n: int, device: torch.device) -> Tensor:
    """n random numbers: a hash (of 32 bits; multiply and shift, twice) of their places under a key from torch's generator.

    torch draws random numbers of a processor one after the other; these are made in parallel, in a third of the time.
    """
    key = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device)
    x = torch.arange(n, dtype=torch.int32, device=device) * (key[0] | 1) + key[1]
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
    x = (x ^ (x >> 15 & 0x1FFFF)) * -0x7B935975
    return x ^ (x >> 16 & 0xFFFF)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which layers keep their weights' precision on the device of x (the meta device has no autocast at all).

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(torch.zeros(1)):
        ...     (torch.zeros(1, 1) @ torch.zeros(1, 1)).dtype
        torch.float32
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class IntensityInput(nn.Module):
    """Symbols 0..levels-1 as numbers from -1 to 1; zero padding then means "no place here", distinct from black and white.

    Shapes:
        (B, C, ...) integers -> (B, C, ...) in the module's dtype.

    Example:
        >>> IntensityInput(levels=3)(torch.tensor([[0, 1, 2]])).tolist()
        [[-1.0, 0.0, 1.0]]
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(2 / (levels - 1)), persistent=False)

    @recordable
    def forward(self, x: Tensor) -> Tensor:
        # Integers times a floating-point number without dimensions take its type.
        return (x * self.step).sub_(1)


class EmbeddingInput(nn.Module):
    """A learned vector per symbol and channel, for symbols without order, such as the codes of a VQ-VAE.

    Shapes:
        (B, C, ...) integers -> (B, C * dim, ...): channel c owns maps c * dim ... (c + 1) * dim - 1.

    Example:
        >>> EmbeddingInput(channels=2, levels=512, dim=16)(torch.zeros(3, 2, 4, 5, dtype=torch.long)).shape
        torch.Size([3, 32, 4, 5])
    """

    def __init__(self, channels: int, levels: int, dim: int) -> None:
        super().__init__()
        self.levels = levels
        self.table = nn.Embedding(channels * levels, dim)

    @recordable
    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(x.shape[1], device=x.device) * self.levels
        vectors = self.table(x.long() + first.view(-1, *[1] * (x.dim() - 2)))
        return vectors.movedim(-1, 2).flatten(1, 2)
