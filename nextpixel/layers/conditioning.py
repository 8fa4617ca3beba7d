"""How a condition enters the layers: small maps are upsampled to the image's grid, and each layer adds V h to its own maps."""

import math

import torch
from torch import Tensor, nn

from nextpixel.layers.pointwise import recordable


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


class ConditionBias(nn.Module):
    """V h: an unmasked 1x1 convolution of the condition's maps, added to a layer's maps (arXiv:1606.05328, section 2.3).

    Args:
        condition_features, features: maps of h, maps of the layer.

    Shapes:
        (B, D, H or 1, W or 1) -> (B, features, H or 1, W or 1).
    """

    def __init__(self, condition_features: int, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(condition_features, features, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(h)

    def start(self, h: Tensor) -> Tensor:
        """V h for a whole scan, as (H or 1, B, W or 1, features): `condition_row` takes one row of it."""
        return self.conv(h).permute(2, 0, 3, 1).contiguous()


@recordable
def condition_row(bias: Tensor, i: int) -> Tensor:
    """Row i of what `ConditionBias.start` has made, (B, W or 1, features); one row serves all where h has no places."""
    return bias[i if bias.shape[0] > 1 else 0]
