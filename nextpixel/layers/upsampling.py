"""From maps of a coarse grid to maps of a fine one: how a small map, all of it, becomes a condition at every place."""

import math

import torch
from torch import Tensor, nn


class Upsampler(nn.Module):
    r"""A small deconvolutional network (arXiv:1601.06759, section 3.6, which gives no sizes), without masks.

    .. math:: y = W_2 * \mathrm{relu}(W^\top *_{f} \mathrm{relu}(W_1 * x)), \qquad y_{f a, f b} \text{ lies at } x_{a b}

    with 3x3 kernels W1, W2 and a transposed convolution of kernel = stride = f, so that every fine place takes part in equal
    measure, without the chessboard of overlapping kernels. Several factors are as many transposed convolutions, each with its
    ReLU: f is then their product.

    Args:
        in_features, features: maps in and out.
        factors: fine places per coarse one, (rows, columns) or one number for both, of each transposed convolution.

    Shapes:
        (B, in_features, a, b), (H, W) with H <= f a and W <= f b -> (B, features, H, W).

    Raises:
        ValueError: the map is too small for the size.

    Example:
        >>> Upsampler(3, 16, 2)(torch.zeros(2, 3, 4, 3), size=(7, 5)).shape
        torch.Size([2, 16, 7, 5])
        >>> Upsampler(3, 16, (7, 5), 2)(torch.zeros(2, 3, 1, 1), size=(14, 9)).shape
        torch.Size([2, 16, 14, 9])
    """

    def __init__(self, in_features: int, features: int, *factors: int | tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_features, features, 3, padding=1)
        first, *further = [nn.ConvTranspose2d(features, features, factor, stride=factor) for factor in factors]
        self.grow, self.grow_further = first, nn.ModuleList(further)
        self.factor = tuple(math.prod(layer.stride[k] for layer in (first, *further)) for k in (0, 1))
        self.out = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if any(places * factor < side for places, factor, side in zip(x.shape[2:], self.factor, size, strict=True)):
            raise ValueError(f"a map of {tuple(x.shape[2:])} times {self.factor} does not fill {tuple(size)}")
        x = torch.relu(self.first(x))
        for grow in (self.grow, *self.grow_further):
            x = torch.relu(grow(x))
        return self.out(x[:, :, : size[0], : size[1]])
