"""From maps of a coarse grid to maps of a fine one: how a small image, all of it, becomes a condition of a large one."""

import torch
from torch import Tensor, nn


class Upsampler(nn.Module):
    r"""A small deconvolutional network (arXiv:1601.06759, section 3.6, which gives no sizes), without masks.

    .. math:: y = W_2 * \mathrm{relu}(W^\top *_{f} \mathrm{relu}(W_1 * x)), \qquad y_{f a, f b} \text{ lies at } x_{a b}

    with 3x3 kernels W1, W2 and a transposed convolution of kernel = stride = f, so that every fine place takes part in equal
    measure, without the chessboard of overlapping kernels.

    Args:
        in_features, features: maps in and out.
        factor: f, fine places per coarse one and direction.

    Shapes:
        (B, in_features, a, b), (H, W) with H <= f a and W <= f b -> (B, features, H, W).

    Example:
        >>> Upsampler(3, 16, factor=2)(torch.zeros(2, 3, 4, 3), size=(7, 5)).shape
        torch.Size([2, 16, 7, 5])
    """

    def __init__(self, in_features: int, features: int, factor: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_features, features, 3, padding=1)
        self.grow = nn.ConvTranspose2d(features, features, factor, stride=factor)
        self.out = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = torch.relu(self.grow(torch.relu(self.first(x))))
        return self.out(x[:, :, : size[0], : size[1]])
