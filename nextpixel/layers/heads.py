"""The end of every network of the family, and the bias by which a condition enters a layer.

The end of a network whose maps know only earlier *places*: nothing of the place's own channels is in them yet.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.layers.grid import colour_groups, kernel_matrix
from nextpixel.layers.masked import ConvCache, MaskedConv2d
from nextpixel.layers.pointwise import without_autocast
from nextpixel.layers.recordable import recordable
from nextpixel.layers.shifted import NetworkInNetwork


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
