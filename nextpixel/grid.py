"""Places on the image grid and the memory of a scan: the row being drawn, and the finished rows above it.

A scan visits places (i, j) row by row. Two memories are enough for every causal convolution:

    RowsAbove   the last r finished rows     read by the row clock, once per row, all columns at once
    CurrentRow  the row being drawn          read by the pixel clock as a window j-k+1..j, a view and never a copy

Both lie as (batch, [row,] column, features): the window of a place is then one contiguous run of numbers per image, and a
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
        windows: `windows[j]` holds columns j-window+1..j, flattened, (B, window * features).
    """

    def __init__(self, batch: int, width: int, features: int, window: int, colours: int, like: Tensor) -> None:
        left = window - 1
        self.values = like.new_zeros(batch, left + width, features)
        self.image = self.values[:, left:]
        self.slots = [[self.image[:, j, group] for j in range(width)] for group in colour_groups(features, colours)]
        self.windows = [self.values[:, j : j + window].view(batch, window * features) for j in range(width)]

    def fill(self, maps: Tensor, first: int = 0) -> None:
        """Write columns first, first + 1, ... from maps (B, F, 1, columns), as an image's row lies in memory."""
        self.image[:, first : first + maps.shape[3]] = maps[:, :, 0].transpose(1, 2)


class RowsAbove:
    """The last `rows` finished rows, zero above the image and on both its sides.

    Args:
        batch, width, features: sizes of a row.
        rows: how many rows are remembered, the newest last.
        side: columns of zeros left and right.
        like: a tensor of the wanted dtype and device.
    """

    def __init__(self, batch: int, width: int, features: int, rows: int, side: int, like: Tensor) -> None:
        self.values = like.new_zeros(batch, rows, width + 2 * side, features)
        self.image = self.values[:, :, side : side + width]

    def push(self, row: Tensor) -> None:
        """Remember `row` (B, W, F) and forget the oldest one."""
        if self.values.shape[1] > 1:
            self.values[:, :-1] = self.values[:, 1:].clone()
        self.image[:, -1] = row


class RowConvolution:
    """One row of a convolution as one matrix product, in memory that is the scan's own.

    Args:
        rows: what it reads; their sides are as wide as the kernel's.
        kernel: from `kernel_matrix`, (r * k * F, out).
        bias: (out,).
        out: (B, W, out), where each call writes the row.
    """

    def __init__(self, rows: RowsAbove, kernel: Tensor, bias: Tensor, out: Tensor) -> None:
        k = kernel.shape[0] // (rows.values.shape[1] * rows.values.shape[3])
        self.kernel, self.bias, self.out = kernel, bias, out
        self.windows = rows.values.unfold(2, k, 1).permute(0, 2, 1, 4, 3)
        self.patches = kernel.new_empty(self.windows.shape)

    def __call__(self) -> Tensor:
        self.patches.copy_(self.windows)
        torch.addmm(self.bias, self.patches.flatten(0, 1).flatten(1), self.kernel, out=self.out.flatten(0, 1))
        return self.out


def kernel_matrix(weight: Tensor) -> Tensor:
    """A convolution's kernel (out, F, r, k) as the matrix (r * k * F, out) that a scan multiplies with."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
