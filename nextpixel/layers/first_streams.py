"""Where the two streams of PixelCNN++ begin (arXiv:1701.05517, Figure 2; the authors' code)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.grid import RowConvolution, kernel_matrix
from nextpixel.layers.shifted import DownRightShiftedConv2d, DownShiftedConv2d


@dataclass
class FirstStreamsCache:
    """What FirstStreams remembers during a scan."""

    u: RowConvolution
    above: RowConvolution
    image: Tensor  # (W, B, C + 1): the row above, encoded, with the map of ones
    pixel: Tensor  # (B, C + 1): the place to the left
    weight: Tensor  # (C + 1, F)


class FirstStreams(nn.Module):
    """The image, with its map of ones, to u0, which knows the two rows above, and ul0, which also knows the place to the left.

    Args:
        in_features: maps of the encoded image, and one for the ones that tell it from the zeros around it.
        features: maps of a stream.

    Example:
        >>> u, ul = FirstStreams(2, 8)(torch.ones(3, 2, 4, 5))
        >>> u.shape, ul.shape
        (torch.Size([3, 8, 4, 5]), torch.Size([3, 8, 4, 5]))
    """

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.u = DownShiftedConv2d(in_features, features, (2, 3))
        self.above = DownShiftedConv2d(in_features, features, (1, 3))
        self.left = DownRightShiftedConv2d(in_features, features, (2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The outputs are shifted: what comes in at the edge is zero, without the bias.
        down, right = (0, 0, 1, -1), (1, -1, 0, 0)
        return F.pad(self.u(x), down), F.pad(self.above(x), down) + F.pad(self.left(x), right)

    def start(self, batch: int, width: int, image_width: int) -> FirstStreamsCache:
        """Memory for one scan over images of `image_width` columns, padded to `width`."""
        weight, left = self.u.weight.detach(), self.left.weight.detach()
        image = weight.new_zeros(width, batch, self.u.in_features)
        image[:image_width, :, -1] = 1
        # Of the place to the left, the row above belongs to the row clock as well.
        kernel = self.above.weight.detach().clone()
        kernel[:, :, 0, 0] += left[:, :, 0, 0]
        out = weight.new_empty(width, batch, self.above.out_features)
        above = RowConvolution(kernel, self.above.bias.detach(), out, axis=0)
        pixel = weight.new_ones(batch, self.u.in_features)
        return FirstStreamsCache(self.u.start(batch, width), above, image, pixel, kernel_matrix(left[:, :, 1:]))

    def begin_row(self, cache: FirstStreamsCache, i: int) -> Tensor:
        """Row clock: u0 of row i, from row i - 1, which `cache.image` holds; and the row's part of ul0."""
        if i == 0:
            cache.u.out.zero_()
            cache.above.out.zero_()
        else:
            for convolution in (cache.u, cache.above):
                convolution.push(cache.image)
                convolution()
        cache.above.out[1:] += self.left.bias
        return cache.u.out

    def step(self, cache: FirstStreamsCache, newest: Tensor | None, j: int) -> Tensor:
        """Pixel clock: ul0 of column j; `newest` is the encoded pixel to its left, (B, C), None at the edge."""
        if newest is None:
            return cache.above.out[0]
        cache.pixel[:, :-1] = newest
        return torch.addmm(cache.above.out[j], cache.pixel, cache.weight)
