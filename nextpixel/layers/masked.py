"""Masked convolutions (van den Oord, Kalchbrenner, Kavukcuoglu 2016, arXiv:1601.06759, section 3.4) and the vertical stack's
convolution (van den Oord et al. 2016, arXiv:1606.05328, section 2.2), for all places at once and for one place of a scan.

    rows above     a a a a a      read on the row clock: one convolution per row
                   a a a a a
    current row    b b m . .      read on the pixel clock: one matrix product; m is the mask's centre

What never contributes is never stored: the kernel ends at the current row, and at its centre if there are no rows above.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import InputError
from nextpixel.layers.grid import CurrentRow, Each, RowConvolution, colour_groups, kernel_matrix
from nextpixel.layers.pointwise import without_autocast

Mask = Literal["A", "B"]
LARGEST_KERNEL = 255  # beyond the images that these models are for


def colour_mask(in_features: int, out_features: int, mask: Mask, colours: int, parts: int = 1) -> Tensor:
    """Which input maps an output map may see at its own place, (out, in) bool.

    Output colour c sees input colour c' if c' < c (mask A) or c' <= c (mask B). The input of a gate has two parts, that
    of an LSTM four, and each is grouped by colour on its own.

    Example:
        >>> colour_mask(3, 3, "A", colours=3).int().tolist()
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    """
    colour_in = _colours(in_features, colours)
    colour_out = _colours(out_features // parts, colours, parts)
    if mask == "A":
        return colour_in[None, :] < colour_out[:, None]
    return colour_in[None, :] <= colour_out[:, None]


def _colours(features: int, colours: int, parts: int = 1) -> Tensor:
    """The colour of each map of each part. A list, because an operation on tensors would import torch's compiler on meta."""
    groups = colour_groups(features, colours)
    return torch.tensor([c for c, group in enumerate(groups) for _ in range(group.start, group.stop)] * parts)


@dataclass
class ConvCache:
    """What one MaskedConv2d remembers during a scan.

    A step is a single look-up and a product: at this pace the look-ups of Python cost as much as the arithmetic.
    """

    row: CurrentRow
    above: RowConvolution | None
    row_part: Tensor  # (B, W, out): what the row clock has found for the current row, bias included
    row_parts: list[Tensor]  # the same by colour group, (B, W, out of c)
    outputs: list[Tensor | slice]  # the output maps of a colour group
    outs: list[Tensor]  # (B, out of c): a step's result, overwritten by the next one
    # [colour group][column]: where the input goes, the row's part, the window, the window's weights, the result
    places: list[Each[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]]

    def spread(self) -> None:
        """Give every colour group its part of `row_part`, after that was written."""
        if len(self.row_parts) > 1:
            for part, maps in zip(self.row_parts, self.outputs, strict=True):
                part.copy_(self.row_part[..., maps])


class MaskedConv2d(nn.Module):
    r"""A convolution that sees only earlier places, and at its own place only what mask A or B allows.

    .. math:: y_{ij} = b + \sum_{u < 0, v} W_{uv} x_{i+u, j+v} + \sum_{v < 0} W_{0v} x_{i, j+v} + (W_{00} \odot M) x_{ij}

    with M from :func:`colour_mask`. The mask is multiplied at use, so gradients, weight decay and averages of masked weights
    stay zero.

    Args:
        in_features, out_features: maps in and out.
        kernel_size: odd side k of the centred k x k kernel, or (rows, columns).
        mask: "A" excludes the current place, "B" includes it.
        colours: colour groups; 1 means that the maps are not split by channel.
        parts: 2 for the input of a gate, 4 for that of an LSTM: each part is grouped by colour separately.
        bias: False where the sum that the output goes into needs none of its own.

    Shapes:
        forward: (B, in_features, H, W) -> (B, out_features, H, W), for any H and W.

    Raises:
        InputError: an even kernel, or fewer maps than colours.

    Example:
        >>> layer = MaskedConv2d(1, 8, kernel_size=7, mask="A")
        >>> layer(torch.zeros(2, 1, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        mask: Mask,
        colours: int = 1,
        parts: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if rows % 2 == 0 or columns % 2 == 0 or not 1 <= min(rows, columns) <= max(rows, columns) <= LARGEST_KERNEL:
            raise InputError(f"kernel_size must be odd, not {kernel_size}, and from 1 to {LARGEST_KERNEL}")
        self.in_features, self.out_features, self.colours, self.parts = in_features, out_features, colours, parts
        self.above, self.left = rows // 2, columns // 2
        self.right = self.left if self.above else 0
        kernel = torch.ones(out_features, in_features, self.above + 1, self.left + 1 + self.right)
        kernel[:, :, -1, self.left + 1 :] = 0
        kernel[:, :, -1, self.left] = colour_mask(in_features, out_features, mask, colours, parts)
        self.register_buffer("mask", kernel, persistent=False)
        self.weight = nn.Parameter(torch.empty_like(kernel))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from U(-1/sqrt(n), 1/sqrt(n)), n the number of inputs that an output map really has."""
        if self.weight.is_meta:
            return  # nothing is drawn, and arithmetic without memory imports torch's compiler, 2 s
        bound = self.mask.flatten(1).sum(1).clamp(min=1).rsqrt()
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(bound[:, None, None, None] * self.mask)
            if self.bias is not None:
                self.bias.uniform_(-1, 1).mul_(bound)

    def forward(self, x: Tensor) -> Tensor:
        if self.above or self.left:
            x = F.pad(x, (self.left, self.right, self.above, 0))
        return F.conv2d(x, self.weight * self.mask, self.bias)

    def start(self, batch: int, width: int) -> ConvCache:
        """Memory and prepared weights for one scan over images of this width."""
        weight, current = (self.weight * self.mask).detach(), self.matrix().detach()
        bias = weight.new_zeros(self.out_features) if self.bias is None else self.bias.detach()
        outputs = self.outputs(weight.device)
        # A copy, even for one image of one column: begin_row writes to it.
        row_part = bias.repeat(batch, width, 1)
        row_parts = [row_part] if self.colours == 1 else [row_part[..., maps] for maps in outputs]
        # A 1x1 layer remembers the current place only, and one place stays in the processor's nearest cache.
        columns = width if self.left or self.above else 1
        row = CurrentRow(batch, columns, self.in_features, self.left + 1, self.colours, weight)
        weights = [current[:, maps].contiguous() for maps in outputs]
        outs = [weight.new_empty(batch, matrix.shape[1]) for matrix in weights]

        def place(j: int, c: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
            return row.slots[c][j % columns], row_parts[c][:, j], row.windows[j % columns], weights[c], outs[c]

        places = [Each(partial(place, c=c)) for c in range(self.colours)]
        above = RowConvolution(weight[:, :, :-1], bias, row_part) if self.above else None
        return ConvCache(row, above, row_part, row_parts, outputs, outs, places)

    def matrix(self) -> Tensor:
        """The masked kernel of one row as the matrix (columns up to the place * in, out) that its window is multiplied with."""
        return kernel_matrix((self.weight * self.mask)[:, :, -1:, : self.left + 1])

    def outputs(self, device: torch.device) -> list[Tensor | slice]:
        """The output maps of every colour group: a run in each part."""
        if self.colours == 1:
            return [slice(0, self.out_features)]
        size = self.out_features // self.parts
        maps = torch.arange(self.out_features, device=device).view(self.parts, size)
        return [maps[:, group].flatten() for group in colour_groups(size, self.colours)]

    def begin_row(self, cache: ConvCache, i: int, bias: Tensor | None = None) -> None:
        """Row clock: the rows-above half of row i, and `bias` (B or 1, W or 1, out), for all its columns at once."""
        if cache.above is not None:
            if i > 0:
                cache.above.push(cache.row.image)
            cache.above()
        elif bias is not None:
            cache.row_part.zero_() if self.bias is None else cache.row_part.copy_(self.bias)
        if bias is not None:
            cache.row_part.add_(bias)
        cache.spread()

    def step(self, cache: ConvCache, x: Tensor, j: int, c: int = 0, add: Tensor | None = None) -> Tensor:
        """Pixel and channel clock: colour group c of the input at column j, (B, in of c), to that of the output.

        The result is the cache's memory. `add` (B, out of c) is added to the output of a layer without bias: a residual
        connection costs no call of its own.
        """
        slot, part, window, weight, out = cache.places[c][j]
        slot.copy_(x)
        return torch.addmm(part if add is None else add, window, weight, out=out)

    def step_seen(self, cache: ConvCache, j: int, c: int = 0, to: Tensor | None = None) -> Tensor:
        """The same where the current row already holds the input; the result may be written `to` other memory."""
        _, part, window, weight, out = cache.places[c][j]
        return torch.addmm(part, window, weight, out=out if to is None else to)


class VerticalConv2d(nn.Module):
    """The vertical stack's convolution: sees whole rows, all columns and colours, and belongs to the row clock alone.

    The first one reads the image and excludes the current row; all later ones read maps that depend only on finished rows, and
    include it. So the current row is excluded exactly once.

    Args:
        in_features, out_features: maps in and out.
        kernel_size: odd side k; the kernel has k // 2 rows above, each k wide, and the current one unless it is excluded.
        exclude_current_row: True for the first layer.

    Example:
        >>> VerticalConv2d(1, 8, 7, exclude_current_row=True)(torch.zeros(2, 1, 5, 9)).shape
        torch.Size([2, 8, 5, 9])
    """

    def __init__(self, in_features: int, out_features: int, kernel_size: int, exclude_current_row: bool = False) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or not (3 if exclude_current_row else 1) <= kernel_size <= LARGEST_KERNEL:
            limits = f"at least 3 without the current row and at most {LARGEST_KERNEL}"
            raise InputError(f"kernel_size must be odd, {limits}, not {kernel_size}")
        self.in_features, self.exclude_current_row = in_features, exclude_current_row
        self.above = self.side = kernel_size // 2
        rows = self.above if exclude_current_row else self.above + 1
        self.conv = nn.Conv2d(in_features, out_features, (rows, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        if self.exclude_current_row:
            x = x[:, :, :-1]
        return self.conv(F.pad(x, (self.side, self.side, self.above, 0)))

    def start(self, batch: int, width: int) -> RowConvolution:
        """Memory for one scan over images of this width."""
        weight = self.conv.weight.detach()
        return RowConvolution(weight, self.conv.bias.detach(), weight.new_empty(batch, width, self.conv.out_channels))

    def begin_row(self, cache: RowConvolution, row: Tensor) -> Tensor:
        """Row clock: take the newest input row (B, W, in), give the output row (B, W, out), the cache's own memory.

        The newest row is row i - 1 of the image for the first layer, and row i of the layer below for all others.
        """
        cache.push(row)
        return cache()


@dataclass
class HeadCache:
    """The two 1x1 layers' memories, and the parameters of the place whose channels are being found."""

    hidden: ConvCache
    out: ConvCache
    params: Tensor  # (B, P)
    slots: list[Tensor]  # its run of each colour group, (B, P of c)


class Head(nn.Module):
    """Twice (ReLU, 1x1 mask B), from maps to the likelihood's parameters (arXiv:1601.06759, Table 1).

    Args:
        features, hidden, params: maps in, between and out.
        colours: colour groups.
        precise: whether the last layer keeps the weights' precision where autocast would lower it.

    Example:
        >>> Head(16, 32, 256, colours=1)(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 256, 4, 5])
    """

    def __init__(self, features: int, hidden: int, params: int, colours: int, precise: bool = False) -> None:
        super().__init__()
        self.precise = precise
        self.hidden = MaskedConv2d(features, hidden, 1, "B", colours)
        self.out = MaskedConv2d(hidden, params, 1, "B", colours)

    @property
    def last(self) -> MaskedConv2d:
        """The layer whose output are the params."""
        return self.out

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.hidden(torch.relu(x)))
        if not self.precise:
            return self.out(x)
        with without_autocast(x):
            return self.out(x.to(self.out.weight.dtype))

    def start(self, batch: int, width: int) -> HeadCache:
        """Memory for one scan over images of this width."""
        out = self.out.start(batch, width)
        params = self.out.weight.new_zeros(batch, self.out.out_features)
        slots = [params[:, group] for group in colour_groups(self.out.out_features, self.out.colours)]
        return HeadCache(self.hidden.start(batch, width), out, params, slots)

    def step(self, cache: HeadCache, x: Tensor, j: int, c: int = 0) -> Tensor:
        """Colour group c of the maps at column j, (B, F of c), to params (B, P), exact up to group c."""
        x = self.hidden.step(cache.hidden, torch.relu(x), j, c)
        cache.slots[c].copy_(self.out.step(cache.out, torch.relu_(x), j, c))
        return cache.params
