"""Gated PixelCNN: a vertical and a horizontal stack of gated convolutions, without blind spot.

Paper: van den Oord, Kalchbrenner, Espeholt, Vinyals, Graves, Kavukcuoglu, "Conditional Image Generation with PixelCNN
Decoders", 2016, arXiv:1606.05328: section 2.1 (gates), 2.2 (blind spot, Figure 2), 2.3 (condition).

    one layer      v -- n x n (rows above) --+----- gate --> v          v: row clock
                                             | 1x1
                   h -- 1 x n (mask A/B) ----+----- gate -- 1x1 --+--> h     h: pixel clock
                   +----------------------------------------------+
                          (no residual in the first layer, which has mask A; none on v)

Deviations: the head (twice ReLU and 1x1 mask B) is the first paper's, since this one gives none. With a categorical
likelihood of several channels the horizontal stack keeps colour groups, in each half of a gate; the vertical stack needs none,
because it reads only finished rows. The autoencoder of section 2.4 is a condition (`nextpixel.conditions.Encoded`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextpixel.conditions import Condition
from nextpixel.errors import require_positive
from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.grid import Each, RowConvolution, kernel_matrix, same
from nextpixel.layers.masked import ConvCache, Head, HeadCache, MaskedConv2d, VerticalConv2d
from nextpixel.layers.pointwise import gated_activation, gated_activation_
from nextpixel.models.base import Inputs, RasterModel


@dataclass
class _LayerCache:
    vertical: RowConvolution
    horizontal: ConvCache
    out: ConvCache
    link: Tensor  # (2p, 2p)
    link_bias: Tensor  # of the link and of the horizontal convolution that it is added to
    bias_v: Tensor | None
    bias_h: Tensor | None
    places: list[Each[tuple[Tensor, ...]]]  # [colour group][column]: all that `step` touches

    def connect(self, above: list[Each[Tensor]], first: bool) -> None:
        """Prepare the steps, which write to `above[c][j]`: there the next layer reads."""
        horizontal, out = self.horizontal.places, self.out.places

        def place(j: int, c: int) -> tuple[Tensor, ...]:
            (h, part, window, weight, new_h), (product, out_part, product_window, out_weight, _) = horizontal[c][j], out[c][j]
            below = out_part if first else h
            return part, window, weight, new_h, *new_h.chunk(2, 1), product, below, product_window, out_weight, above[c][j]

        self.places = [Each(partial(place, c=c)) for c in range(len(above))]


class _GatedLayer(nn.Module):
    """Figure 2. The first layer reads the image in both stacks; the others read the two stacks below."""

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel_size: int,
        colours: int,
        condition: Condition | None,
        first: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.first = first
        self.vertical = VerticalConv2d(in_features, 2 * features, kernel_size, exclude_current_row=first)
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.horizontal = MaskedConv2d(in_features, 2 * features, (1, kernel_size), "A" if first else "B", colours, parts=2)
        self.out = MaskedConv2d(features, features, 1, "B", colours, bias=False)
        # No layer reads the last layer's v: a condition there would have no gradient.
        self.condition_v = ConditionBias(condition.features, 2 * features) if condition and not last else None
        self.condition_h = ConditionBias(condition.features, 2 * features) if condition else None

    def forward(self, v: Tensor, h: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        new_v = self.vertical(v)
        new_h = self.horizontal(h) + self.link(new_v)
        if self.condition_h is not None:
            new_h = new_h + self.condition_h(cond)
        if self.condition_v is not None:
            new_v = new_v + self.condition_v(cond)
        out = self.out(gated_activation(new_h))
        return gated_activation(new_v), out if self.first else h + out

    def start(self, batch: int, width: int, cond: Tensor | None) -> _LayerCache:
        horizontal = self.horizontal.start(batch, width)
        return _LayerCache(
            vertical=self.vertical.start(batch, width),
            horizontal=horizontal,
            out=self.out.start(batch, width),
            link=kernel_matrix(self.link.weight.detach()),
            link_bias=(self.link.bias + self.horizontal.bias).detach(),
            bias_v=None if self.condition_v is None else self.condition_v.start(cond),
            bias_h=None if self.condition_h is None else self.condition_h.start(cond),
            places=[],
        )

    def begin_row(self, cache: _LayerCache, v: Tensor, i: int) -> Tensor:
        """Row clock: the vertical stack's newest row below, (B, W, in), to its row above; the link to the horizontal stack."""
        new_v = self.vertical.begin_row(cache.vertical, v)
        row = cache.horizontal.row_part
        torch.addmm(cache.link_bias, new_v.flatten(0, 1), cache.link, out=row.flatten(0, 1))
        if cache.bias_h is not None:
            row.add_(condition_row(cache.bias_h, i))
        if cache.bias_v is not None:
            new_v.add_(condition_row(cache.bias_v, i))
        cache.horizontal.spread()
        return gated_activation_(*new_v.chunk(2, 2))

    def step(self, cache: _LayerCache, j: int, c: int) -> Tensor:
        """Pixel clock: colour group c of column j, from the row that this layer reads into the row that the next one reads."""
        part, window, weight, new_h, value, gate, product, h, product_window, out_weight, above = cache.places[c][j]
        torch.mm(window, weight, out=new_h).add_(part)  # two calls, and 2 % of a scan faster than addmm
        gated_activation_(value, gate, product)
        return torch.addmm(h, product_window, out_weight, out=above)


@dataclass
class _Cache:
    layers: list[_LayerCache]
    head: HeadCache


class GatedPixelCNN(RasterModel):
    """Two stacks of gated convolutions that together see the whole past (arXiv:1606.05328).

    Args:
        shape: (C, H, W) of the training images; any H and W at use time.
        levels: symbols 0..levels-1.
        features: p, maps of each stack.
        blocks: gated layers, the first (mask A) included.
        kernel_size: n of the layers (the paper's ImageNet models: 5).
        first_kernel_size: n of the first layer.
        head_features: maps of the 1x1 head.
        likelihood: distribution of a place.
        mixtures: components, where the likelihood is a mixture.
        inputs: "intensity" or "embedding" (codes without order).
        embedding_features: size of an embedding.
        condition: what images may depend on, or None.

    Example:
        >>> model = GatedPixelCNN(shape=(1, 8, 8), levels=17, features=8, blocks=2)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "gated-pixelcnn"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Section 3.1: ImageNet, 20 layers of 384 maps, 5x5
        "imagenet32": {
            "shape": (3, 32, 32),
            "levels": 256,
            "features": 384,
            "blocks": 20,
            "kernel_size": 5,
            "head_features": 1024,
        },
        "tiny": {"shape": (1, 8, 8), "levels": 17, "features": 8, "blocks": 2, "head_features": 16},
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        features: int = 64,
        blocks: int = 12,
        kernel_size: int = 5,
        first_kernel_size: int = 7,
        head_features: int = 128,
        likelihood: str = "categorical",
        mixtures: int = 10,
        inputs: Inputs = "intensity",
        embedding_features: int = 16,
        condition: Condition | dict | None = None,
    ) -> None:
        super().__init__(shape, levels, likelihood, inputs, embedding_features, condition, mixtures)
        require_positive(features=features, blocks=blocks, head_features=head_features)
        self.features, self.blocks, self.head_features = features, blocks, head_features
        self.kernel_size, self.first_kernel_size = kernel_size, first_kernel_size
        self.layers = nn.ModuleList(
            _GatedLayer(
                in_features=features if layer else self.input_features,
                features=features,
                kernel_size=kernel_size if layer else first_kernel_size,
                colours=self.colours,
                condition=self.condition,
                first=layer == 0,
                last=layer == blocks - 1,
            )
            for layer in range(blocks)
        )
        self.head = Head(features, head_features, self.likelihood.params, self.colours, self.likelihood.precise)

    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        v, horizontal = inputs, inputs
        for layer in self.layers:
            v, horizontal = self.run(layer, v, horizontal, h)
        return self.head(horizontal)

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> _Cache:
        width = (size or self.shape[1:])[1]
        layers = [layer.start(batch, width, h) for layer in self.layers]
        for k, layer in enumerate(layers):
            last = k == len(layers) - 1
            layer.connect([*map(same, layer.out.outs)] if last else layers[k + 1].horizontal.row.slots, first=k == 0)
        return _Cache(layers, self.head.start(batch, width))

    def begin_row(self, cache: _Cache, x: Tensor, i: int) -> None:
        image = cache.layers[0].horizontal.row.image
        # Row 0 stands below a row of zeros, which is no row of symbols.
        image.copy_(self.encode(x[:, :, i - 1]).transpose(1, 2)) if i > 0 else image.zero_()
        v = image
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            v = layer.begin_row(memory, v, i)

    def step(self, cache: _Cache, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        newest = j if c else j - 1  # the symbol that was chosen after the step before
        if newest >= 0:
            cache.layers[0].horizontal.row.columns[newest].copy_(self.encode(x[:, :, i, newest]))
        for layer, memory in zip(self.layers, cache.layers, strict=True):
            y = layer.step(memory, j, c)
        return self.head.step(cache.head, y, j, c)
