"""Places on the image grid and the memory of a scan: the row being drawn, and the finished rows above it.

A scan visits places (i, j) row by row. Two memories are enough for every causal convolution:

    RowConvolution  the last r finished rows     read by the row clock, once per row, all columns at once
    CurrentRow      the row being drawn          read by the pixel clock as a window j-k+1..j, a view and never a copy

Both lie as (batch, column, ..., features): the window of a place is then one contiguous run of numbers per image, and a
causal convolution at that place is one matrix product. The views of every place are made once per scan, because making a
view costs as much time as a small matrix product. Their addresses never change, so that a row can be captured and replayed.
"""

from itertools import pairwise

import torch
from torch import Tensor

from nextpixel.errors import InputError


def colour_groups(features: int, colours: int) -> list[slice]:
    """Cut `features` maps into `colours` runs, one per colour channel in the order R, G, B.

    The runs differ by at most one map, so that the published sizes (128 maps for RGB) need not be multiples of three.

    Raises:
        InputError: fewer maps than colours.

    Example:
        >>> colour_groups(8, 3)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    if features < colours:
        raise InputError(f"{features} features cannot be cut into {colours} colour groups: give at least {colours}")
    bounds = [-(-features * c // colours) for c in range(colours + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]


class CurrentRow:
    """The row being drawn, zero to the left of the image.

    Args:
        batch, width, features: sizes of the row.
        window: how many places a window holds, the current one (the last) included.
        colours: colour groups that are written one after the other.
        like: a tensor of the wanted dtype and device.

    Attributes:
        slots: `slots[c][j]` is the place to write colour group c of column j to, (B, features of c).
        columns: `columns[j]` is the same for all colour groups, (B, features).
        windows: `windows[j]` holds columns j-window+1..j, flattened, (B, window * features).
    """

    def __init__(self, batch: int, width: int, features: int, window: int, colours: int, like: Tensor) -> None:
        left = window - 1
        self.values = like.new_zeros(batch, left + width, features)
        self.image = self.values[:, left:]
        self.columns = list(self.image.unbind(1))
        self.slots = [[self.image[:, j, group] for j in range(width)] for group in colour_groups(features, colours)]
        self.windows = [self.values[:, j : j + window].view(batch, window * features) for j in range(width)]


class RowConvolution:
    """The last finished rows, zero above the image and on both its sides, and a convolution over them: one product per row.

    The rows are kept as the patches that the product reads. A new row overwrites the oldest one's place in them, and the kernel
    is turned instead of the rows: one copy per row, whatever the kernel's height.

    Args:
        kernel: (out, F, r, k); its last row meets the newest row.
        bias: (out,).
        out: (B, W, out), where each call writes its result.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, out: Tensor) -> None:
        (_, features, rows, k), (batch, width, _) = kernel.shape, out.shape
        self.bias, self.out = bias, out
        row = kernel.new_zeros(batch, width + k - 1, features)
        self.image = row[:, k // 2 : k // 2 + width]
        self.windows = row.unfold(1, k, 1).transpose(2, 3)
        self.patches = kernel.new_zeros(batch, width, rows, k, features)
        self.kernels = [kernel_matrix(kernel.roll(newest + 1, 2)) for newest in range(rows)]
        self.newest = 0

    def push(self, row: Tensor) -> None:
        """Remember `row` (B, W, F) and forget the oldest one."""
        self.image.copy_(row)
        self.newest = (self.newest + 1) % len(self.kernels)
        self.patches[:, :, self.newest] = self.windows

    def __call__(self) -> Tensor:
        """The row below the remembered ones, (B, W, out): the memory `out`."""
        patches = self.patches.flatten(0, 1).flatten(1)
        torch.addmm(self.bias, patches, self.kernels[self.newest], out=self.out.flatten(0, 1))
        return self.out


def kernel_matrix(weight: Tensor) -> Tensor:
    """A convolution's kernel (out, F, r, k) as the matrix (r * k * F, out) that a scan multiplies with."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
