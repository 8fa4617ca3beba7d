"""Layers without neighbours: what they do to a map they do to one place of it, so one function serves both paths."""

import torch
from torch import Tensor, nn


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


def gated_activation_(value: Tensor, gate: Tensor) -> Tensor:
    """The same from both halves, in their memory, which it spoils: a scan needs no gradients, and new memory costs time.

    Example:
        >>> x = torch.randn(3, 8)
        >>> torch.equal(gated_activation(x), gated_activation_(*x.clone().chunk(2, 1)))
        True
    """
    return value.tanh_().mul_(gate.sigmoid_())


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

    def forward(self, x: Tensor) -> Tensor:
        first = torch.arange(x.shape[1], device=x.device) * self.levels
        vectors = self.table(x.long() + first.view(-1, *[1] * (x.dim() - 2)))
        return vectors.movedim(-1, 2).flatten(1, 2)
