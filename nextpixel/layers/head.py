"""The end of every network of the family, and the bias by which a condition enters a layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextpixel.grid import colour_groups
from nextpixel.layers.masked import ConvCache, MaskedConv2d
from nextpixel.layers.pointwise import without_autocast
from nextpixel.recording import recordable


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
