"""Places on the image grid and the memory of a scan: the row being drawn, and the finished rows above it.

A scan visits places (i, j) row by row. Two memories are enough for every causal convolution:

    RowConvolution  the last r finished rows     read by the row clock, once per row, all columns at once
    CurrentRow      the row being drawn          read by the pixel clock as a window j-k+1..j, a view and never a copy

Both lie as (batch, column, ..., features): the window of a place is then one contiguous run of numbers per image, and a
causal convolution at that place is one matrix product. The views of a place are made once per scan, because making a
view costs as much time as a small matrix product; and only when they are first used, because they take more memory than what they
show. Their addresses never change, so that a row can be captured and replayed.
"""

from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.layers.pointwise import recordable


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


View = TypeVar("View")


class Each(dict[int, View], Generic[View]):
    """What belongs to each column, made when it is first used.

    Example:
        >>> squares = Each(lambda j: j * j)
        >>> squares[3], len(squares)
        (9, 1)
    """

    def __init__(self, make: Callable[[int], View]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, j: int) -> View:
        view = self[j] = self.make(j)
        return view


def same(view: View) -> Each[View]:
    """One for all columns.

    Example:
        >>> same("all")[7]
        'all'
    """
    return Each(lambda j: view)


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
        values, image = self.values, self.image  # without which a scan's memory would wait for the garbage collector
        self.columns = Each(lambda j: image[:, j])
        self.slots = [Each(lambda j, group=group: image[:, j, group]) for group in colour_groups(features, colours)]
        self.windows = Each(lambda j: values[:, j : j + window].view(batch, window * features))


class PatchRow:
    """The row being drawn, as the patches that products read, zero to the left of the image: (W, B, k, F).

    A place is written into every patch that holds it. In return a patch is one run of memory for the whole batch, and when the
    row is finished the row clock multiplies all its patches at once, without a copy.

    Args:
        batch, width, features: sizes of the row of patches.
        window: k, columns of a patch, the current one (the last) included.
        stride: columns of the image from one patch to the next.
        like: a tensor of the wanted dtype and device.

    Attributes:
        slots: `slots[j]` are the places to write column j of the image to, (B, F) each.
        windows: `windows[j]` is patch j, (B, k * F).
        patches: all of them, (W * B, k * F).
    """

    def __init__(self, batch: int, width: int, features: int, window: int, stride: int, like: Tensor) -> None:
        values = like.new_zeros(width, batch, window, features)
        self.patches = values.view(width * batch, window * features)
        self.windows = Each(values.flatten(2).__getitem__)

        def slots(j: int) -> list[Tensor]:
            # Column j stands in patch J at J * stride - (k - 1) + q = j.
            patches = range(max(0, -(-j // stride)), min(width, (j + window - 1) // stride + 1))
            return [values[patch, :, j - patch * stride + window - 1] for patch in patches]

        self.slots = Each(slots)


class RowConvolution:
    """The last finished rows, zero above the image and on both its sides, and a convolution over them: one product per row.

    The rows are kept as the patches that the product reads. A new row overwrites the oldest one's place in them, and the kernel
    is turned instead of the rows: one copy per row, whatever the kernel's height.

    Args:
        kernel: (out, F, r, k); its last row multiplies the newest row. Of its columns k // 2 lie left of the place, so that
            an even kernel ends at it.
        bias: (out,).
        out: (B, W, out), where each call writes its result.
        stride: the rows are `stride` times as wide as the result, and every `stride`-th column has a window.
        axis: of rows and result that counts columns; 0 for (W, B, F), where each column is one run of memory.

    Attributes:
        image: (B, stride * W, F), where `take` finds the newest row.
        padded: the same with the zeros on both its sides.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, out: Tensor, stride: int = 1, axis: int = 1) -> None:
        _, features, rows, k = kernel.shape
        batch, width = out.shape[1 - axis], out.shape[axis] * stride
        self.kernel, self.bias, self.out, self.stride, self.axis = kernel, bias, out, stride, axis
        shape = (batch, width + k - 1, features) if axis == 1 else (width + k - 1, batch, features)
        self.padded = kernel.new_zeros(shape)
        self.image = self.padded.narrow(axis, k // 2, width)
        self.rows, self.newest = rows, 0

    @cached_property
    def windows(self) -> Tensor:
        """The row's windows, (B, W, k, F)."""
        return self.padded.unfold(self.axis, self.kernel.shape[3], self.stride).transpose(2, 3)

    @cached_property
    def patches(self) -> Tensor:
        """The windows of all rows, (B, W, r, k, F)."""
        return self.kernel.new_zeros(*self.windows.shape[:2], self.rows, *self.windows.shape[2:])

    @cached_property
    def kernels(self) -> list[Tensor]:
        """The kernel as a matrix for each place that the newest row may have."""
        return [kernel_matrix(self.kernel.roll(newest + 1, 2)) for newest in range(self.rows)]

    def push(self, row: Tensor) -> None:
        """Remember `row` (B, W, F) and forget the oldest one."""
        self.image.copy_(row)
        self.take()

    @recordable
    def take(self) -> None:
        """Remember the row that stands in `image`."""
        self.newest = (self.newest + 1) % self.rows
        self.patches[:, :, self.newest] = self.windows

    @recordable
    def __call__(self) -> Tensor:
        """The row below the remembered ones, (B, W, out): the memory `out`."""
        patches = self.patches.flatten(0, 1).flatten(1)
        torch.addmm(self.bias, patches, self.kernels[self.newest], out=self.out.flatten(0, 1))
        return self.out


def kernel_matrix(weight: Tensor) -> Tensor:
    """A convolution's kernel (out, F, r, k) as the matrix (r * k * F, out) that a scan multiplies with."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
