"""PixelCNN++ (arXiv:1701.05517, Figure 2, section 2.4, the authors' code): the beginning of its two streams, their gated ResNet
block, and the head.

x --- concat_elu -- conv --- + --- concat_elu -- dropout -- conv (2F maps) --- + --- a * sigmoid(b) --- + --- x
  |                          |                                                 |                        |
  |          a -- concat_elu -- 1x1 (short-cuts)                     h -- 1x1 (condition)               |
  +-----------------------------------------------------------------------------------------------------+

u   all rows above                down-shifted convolutions, all of it on the row clock
ul  and the row's left part       down-right-shifted ones, on the row and the pixel clock; takes u through its short-cut
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.grid import Each, PatchRow, RowConvolution, colour_groups, kernel_matrix
from nextpixel.layers.masked import ConvCache, MaskedConv2d
from nextpixel.layers.pointwise import concat_elu, concat_elu_to, dropout, without_autocast
from nextpixel.layers.shifted import DownRightCache, DownRightShiftedConv2d, DownShiftedConv2d, NetworkInNetwork


class _ShortCut(NetworkInNetwork):
    """The 1x1 of concat_elu of all maps that a short-cut takes, side by side.

    They are not concatenated: each is multiplied by its own part of the kernel, so the layer above reads the same concat_elu,
    and compiled code computes and keeps it once.
    """

    def forward(self, *maps: Tensor) -> Tensor:
        # The kernel stands in the order of concat_elu(cat(maps)): the positive halves of all maps, then the negative ones.
        kernels = self.weight.unflatten(1, (2, len(maps), -1)).transpose(1, 2).flatten(2, 3).unbind(1)
        first, *others = (F.conv2d(concat_elu(a), kernel) for a, kernel in zip(maps, kernels, strict=True))
        return sum(others, first + self.bias.view(-1, 1, 1))


class _GatedResnet(nn.Module):
    """What both streams share: the parallel path.

    Args:
        features: F, maps of the stream.
        short_cuts: how many times F maps come in through the 1x1.
        dropout: probability that an element (not a map) is dropped in training.
        condition: maps of h, the encoded condition; 0 for none.
    """

    conv: type[DownShiftedConv2d] | type[DownRightShiftedConv2d]

    def __init__(self, features: int, short_cuts: int, dropout: float, condition: int) -> None:
        super().__init__()
        self.features, self.dropout = features, dropout
        self.first = self.conv(2 * features, features)
        self.short_cut = _ShortCut(2 * features * short_cuts, features) if short_cuts else None
        # A tenth of the variance of the stream, so that a deep network starts near the identity.
        self.second = self.conv(2 * features, 2 * features, init_scale=0.1)
        self.condition = ConditionBias(condition, 2 * features) if condition else None
        if self.condition is not None:
            nn.init.normal_(self.condition.conv.weight, std=0.05)

    def forward(self, x: Tensor, short_cuts: tuple[Tensor, ...], h: Tensor | None) -> Tensor:
        y = self.first(concat_elu(x))
        if self.short_cut is not None:
            y = y + self.short_cut(*short_cuts)
        y = self.second(dropout(concat_elu(y), self.dropout, self.training))
        if self.condition is not None:
            y = y + self.condition(h)
        value, gate = y.chunk(2, 1)
        return x + value * torch.sigmoid(gate)

    def _first_bias(self) -> Tensor:
        """Of the first convolution and the short-cut that it is added to."""
        return (self.first.bias if self.short_cut is None else self.first.bias + self.short_cut.bias).detach()

    def _bias(self, h: Tensor | None) -> Tensor | None:
        return None if self.condition is None else self.condition.start(h)


@dataclass
class UpperCache:
    """What one UpperResnet remembers during a scan."""

    first: RowConvolution
    second: RowConvolution
    first_image: tuple[Tensor, ...]  # where each convolution takes its newest row, (W, B, 2F), and the halves of it
    second_image: tuple[Tensor, ...]
    short_cut: Tensor | None  # (2F, F)
    bias: Tensor | None
    out: Tensor  # (W, B, F)


class UpperResnet(_GatedResnet):
    """A block of the u stream.

    Example:
        >>> x = torch.zeros(2, 8, 4, 5)
        >>> UpperResnet(8, short_cuts=1, dropout=0.5, condition=0)(x, (x,), None).shape
        torch.Size([2, 8, 4, 5])
    """

    conv = DownShiftedConv2d

    def start(self, batch: int, width: int, h: Tensor | None) -> UpperCache:
        """Memory for one scan over maps of this width under the encoded condition h."""
        first, second = self.first.start(batch, width), self.second.start(batch, width)
        first.bias = self._first_bias()
        images = [(row.image, *row.image.chunk(2, 2)) for row in (first, second)]
        short_cut = None if self.short_cut is None else kernel_matrix(self.short_cut.weight.detach())
        return UpperCache(first, second, *images, short_cut, self._bias(h), torch.empty_like(first.out))

    def begin_row(self, cache: UpperCache, x: Tensor, a: Tensor | None, i: int) -> Tensor:
        """Row clock: row i of the stream below and of the short-cut, (W, B, F) each, to that of the output."""
        concat_elu_to(*cache.first_image, x)
        cache.first.take()
        y = cache.first()
        if cache.short_cut is not None:
            y.flatten(0, 1).addmm_(concat_elu(a, 2).flatten(0, 1), cache.short_cut)
        concat_elu_to(*cache.second_image, y)
        cache.second.take()
        y = cache.second()
        if cache.bias is not None:
            y.add_(condition_row(cache.bias, i).transpose(0, 1))
        value, gate = y.chunk(2, 2)
        return torch.addcmul(x, value, gate.sigmoid_(), out=cache.out)


class _ActivatedRow:
    """A row of patches whose places hold concat_elu."""

    def __init__(self, row: PatchRow) -> None:
        self.slots = slots = Each(lambda j: row.slots[j][0])
        self.copies = Each(lambda j: row.slots[j][1] if len(row.slots[j]) > 1 else None)
        self.halves = Each(lambda j: slots[j].chunk(2, 1))

    def activate(self, j: int, x: Tensor) -> None:
        """Let column j be [elu(x), elu(-x)], in both patches that hold it; x (B, F) may be the first of `halves` already."""
        slot, copy = concat_elu_to(self.slots[j], *self.halves[j], x), self.copies[j]
        if copy is not None:
            copy.copy_(slot)


@dataclass
class LeftCache:
    """What one LeftResnet remembers during a scan."""

    first: DownRightCache
    second: DownRightCache
    first_row: _ActivatedRow
    second_row: _ActivatedRow
    from_u: Tensor  # (2F, F): the short-cut's part for u
    from_ul: Tensor | None  # and for the ul of the way up
    skips: Mapping[int, Tensor] | None  # [column]: concat_elu of that ul, (B, 2F)
    bias: Tensor | None
    y: Tensor  # (B, 2F): what the second convolution gives a place, and its halves
    value: Tensor
    gate: Tensor
    out: Tensor  # (B, F)


class LeftResnet(_GatedResnet):
    """A block of the ul stream; its short-cut takes u, and on the way down also the ul of the way up: cat([u, ul]).

    Example:
        >>> x = torch.zeros(2, 8, 4, 5)
        >>> LeftResnet(8, short_cuts=2, dropout=0.5, condition=0)(x, (x, x), None).shape
        torch.Size([2, 8, 4, 5])
    """

    conv = DownRightShiftedConv2d

    def start(self, batch: int, width: int, h: Tensor | None, skips: Mapping[int, Tensor] | None = None) -> LeftCache:
        """Memory for one scan; `skips[j]` is concat_elu of the ul that column j takes through its short-cut, (B, 2F)."""
        first, second = self.first.start(batch, width), self.second.start(batch, width)
        first.bias = self._first_bias()
        # concat_elu has put the positive halves of all short-cuts before the negative ones
        short_cuts = kernel_matrix(self.short_cut.weight.detach()).unflatten(0, (2, -1, self.features)).transpose(0, 1)
        from_u, *from_ul = (part.flatten(0, 1).contiguous() for part in short_cuts)
        y = first.part.new_empty(batch, 2 * self.features)
        return LeftCache(
            first=first,
            second=second,
            first_row=_ActivatedRow(first.row),
            second_row=_ActivatedRow(second.row),
            from_u=from_u,
            from_ul=from_ul[0] if from_ul else None,
            skips=skips,
            bias=self._bias(h),
            y=y,
            value=y[:, : self.features],
            gate=y[:, self.features :],
            out=y.new_empty(batch, self.features),
        )

    def begin_row(self, cache: LeftCache, u: Tensor, i: int) -> None:
        """Row clock: what row i takes from the rows above it and from row i of u, (W, B, F)."""
        part = self.first.begin_row(cache.first)
        part.flatten(0, 1).addmm_(concat_elu(u, 2).flatten(0, 1), cache.from_u)
        part = self.second.begin_row(cache.second)
        if cache.bias is not None:
            part.add_(condition_row(cache.bias, i).transpose(0, 1))

    def step(self, cache: LeftCache, x: Tensor, j: int) -> Tensor:
        """Pixel clock: column j of the stream below, (B, F), to that of this block's output, the cache's own memory."""
        first, second = cache.first, cache.second
        cache.first_row.activate(j, x)
        y = torch.addmm(first.parts[j], first.row.windows[j], first.weight, out=cache.second_row.halves[j][0])
        if cache.skips is not None:
            y.addmm_(cache.skips[j], cache.from_ul)
        cache.second_row.activate(j, y)
        torch.addmm(second.parts[j], second.row.windows[j], second.weight, out=cache.y)
        return torch.addcmul(x, cache.value, cache.gate.sigmoid_(), out=cache.out)


@dataclass
class FirstStreamsCache:
    """What FirstStreams remembers during a scan."""

    u: RowConvolution
    above: RowConvolution
    image: Tensor  # (W, B, C + 1): the row above, encoded, with the map of ones
    pixel: Tensor  # (B, C + 1): the place to the left
    weight: Tensor  # (C + 1, F)


class FirstStreams(nn.Module):
    """The image, with its map of ones, to u0, which reads the two rows above, and ul0, which also reads the place to the left.

    Args:
        in_features: maps of the encoded image, and the map of ones, by which it differs from the padding.
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


@dataclass
class PlaceHeadCache:
    """What a PlaceHead remembers during a scan: one place."""

    weights: list[Tensor]  # of the layer that reads the maps, by colour group: (F, hidden of c), or (F, P)
    biases: list[Tensor]
    params: Tensor  # (B, P)
    own: ConvCache | None
    out: ConvCache | None
    slots: list[Tensor]  # the run of each colour group in `params`


class PlaceHead(nn.Module):
    """ELU and a 1x1, as PixelCNN++ ends (arXiv:1701.05517); where the likelihood leaves the channels to the network, the chain
    R -> G -> B stands here: a hidden 1x1 layer that also sees the place's earlier channels (mask A), ReLU, and 1x1 mask B.

    Args:
        features, hidden, params: maps in, between (only with several colours) and out.
        colours: colour groups.
        input_features: maps of the encoded image.
        precise: whether the last layer keeps the weights' precision where autocast would lower it (one colour only).

    Example:
        >>> PlaceHead(16, 24, 30, colours=1, input_features=1)(torch.zeros(2, 16, 4, 5), torch.zeros(2, 1, 4, 5)).shape
        torch.Size([2, 30, 4, 5])
    """

    def __init__(self, features: int, hidden: int, params: int, colours: int, input_features: int, precise: bool = False) -> None:
        super().__init__()
        self.params, self.colours, self.precise = params, colours, precise
        self.maps = NetworkInNetwork(features, hidden if colours > 1 else params)
        self.own = MaskedConv2d(input_features, hidden, 1, "A", colours, bias=False) if colours > 1 else None
        self.out = MaskedConv2d(hidden, params, 1, "B", colours) if colours > 1 else None

    @property
    def last(self) -> MaskedConv2d | NetworkInNetwork:
        """The layer whose output are the params."""
        return self.maps if self.out is None else self.out

    def forward(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Maps (B, F, H, W) and the encoded image (B, input_features, H, W) to params (B, P, H, W)."""
        if self.out is not None:
            return self.out(torch.relu(self.maps(F.elu(x)) + self.own(inputs)))
        if not self.precise:
            return self.maps(F.elu(x))
        with without_autocast(x):
            return self.maps(F.elu(x.to(self.maps.gain.dtype)))

    def start(self, batch: int) -> PlaceHeadCache:
        """Memory for one scan."""
        weight, bias = kernel_matrix(self.maps.weight.detach()), self.maps.bias.detach()
        params = weight.new_empty(batch, self.params)
        if self.out is None:
            return PlaceHeadCache([weight], [bias], params, None, None, [params])
        groups = colour_groups(len(bias), self.colours)
        return PlaceHeadCache(
            weights=[weight[:, group].contiguous() for group in groups],
            biases=[bias[group] for group in groups],
            params=params.zero_(),
            own=self.own.start(batch, 1),
            out=self.out.start(batch, 1),
            slots=[params[:, group] for group in colour_groups(self.params, self.colours)],
        )

    def step(self, cache: PlaceHeadCache, x: Tensor) -> Tensor:
        """Pixel clock: the place's maps (B, F) to params (B, P); with several colours only those of the first are exact."""
        y = F.elu(x)
        if cache.own is None:
            return torch.addmm(cache.biases[0], y, cache.weights[0], out=cache.params)
        for part, bias, weight in zip(cache.own.row_parts, cache.biases, cache.weights, strict=True):
            torch.addmm(bias, y, weight, out=part[:, 0])
        return self.step_colour(cache, None, 0)

    def step_colour(self, cache: PlaceHeadCache, inputs: Tensor | None, c: int) -> Tensor:
        """Channel clock: the place's encoded channels (B, input_features), of which those before c count, to params (B, P)."""
        if inputs is not None:
            cache.own.row.columns[0].copy_(inputs)
        y = torch.relu_(self.own.step_seen(cache.own, 0, c))
        cache.slots[c].copy_(self.out.step(cache.out, y, 0, c))
        return cache.params
