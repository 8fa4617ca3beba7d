"""PixelCNN: residual blocks of masked convolutions.

Paper: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759: section 3.3
(residual connections), 3.4 (masks), 3.5 (PixelCNN), Table 1 (sizes).

    x -> 7x7 mask A -> blocks of [ReLU, 1x1: 2h -> h, ReLU, 3x3 mask B: h -> h, ReLU, 1x1: h -> 2h, + input]
      -> ReLU, 1x1 mask B -> ReLU, 1x1 mask B -> params

Deviations: an optional condition (not in this paper) enters every block as the second paper's bias V h, and the first layer.
Where features are not a multiple of the channels, colour groups differ by one map. Not implemented: nothing of sections 3.3-3.5.
Known flaw, by design: stacked masks never see a part of the past, the blind spot (arXiv:1606.05328, section 2.2).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextpixel.conditions import Condition
from nextpixel.errors import require_positive
from nextpixel.layers.conditioning import ConditionBias, condition_row
from nextpixel.layers.masked import ConvCache, Head, HeadCache, MaskedConv2d
from nextpixel.models.base import Inputs, RasterModel


@dataclass
class _BlockCache:
    reduce: ConvCache
    conv: ConvCache
    expand: ConvCache
    bias: Tensor | None


class _ResidualBlock(nn.Module):
    """2h -> h -> h -> 2h with mask B throughout (Figure 5, left)."""

    def __init__(self, features: int, kernel_size: int, colours: int, condition: Condition | None) -> None:
        super().__init__()
        self.reduce = MaskedConv2d(2 * features, features, 1, "B", colours)
        self.conv = MaskedConv2d(features, features, kernel_size, "B", colours)
        self.expand = MaskedConv2d(features, 2 * features, 1, "B", colours, bias=False)
        self.condition = ConditionBias(condition.features, features) if condition else None

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        y = self.conv(torch.relu(self.reduce(torch.relu(x))))
        if self.condition is not None:
            y = y + self.condition(h)
        return x + self.expand(torch.relu(y))

    def start(self, batch: int, width: int, h: Tensor | None) -> _BlockCache:
        bias = None if self.condition is None else self.condition.start(h)
        return _BlockCache(*(layer.start(batch, width) for layer in (self.reduce, self.conv, self.expand)), bias)

    def begin_row(self, cache: _BlockCache, i: int) -> None:
        self.conv.begin_row(cache.conv, i, None if cache.bias is None else condition_row(cache.bias, i))

    def step(self, cache: _BlockCache, x: Tensor, j: int, c: int) -> Tensor:
        y = self.reduce.step(cache.reduce, torch.relu(x), j, c)
        y = self.conv.step(cache.conv, torch.relu_(y), j, c)
        return self.expand.step(cache.expand, torch.relu_(y), j, c, add=x)


@dataclass
class _Cache:
    first: ConvCache
    bias: Tensor | None
    blocks: list[_BlockCache]
    head: HeadCache


class PixelCNN(RasterModel):
    """The first convolutional model of the family: every layer is a masked convolution (arXiv:1601.06759).

    Args:
        shape: (C, H, W) of the training images; any H and W at use time.
        levels: symbols 0..levels-1.
        features: h; the maps between blocks are 2h.
        blocks: residual blocks.
        kernel_size: of the blocks' mask B convolution.
        first_kernel_size: of the mask A convolution.
        head_features: maps of the 1x1 head (the paper: 1024 for colour images, 32 for MNIST).
        likelihood: distribution of a place.
        mixtures: components, where the likelihood is a mixture.
        inputs: "intensity" or "embedding" (codes without order).
        embedding_features: size of an embedding.
        condition: what images may depend on, or None.

    Example:
        >>> model = PixelCNN(shape=(3, 8, 8), levels=4, features=6, blocks=2)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 3, 8, 8])
    """

    name = "pixelcnn"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Table 1, the column PixelCNN: 15 layers of h = 128
        "cifar10": {"shape": (3, 32, 32), "levels": 256, "features": 128, "blocks": 15, "head_features": 1024},
        # Section 5.4 gives MNIST 7 layers of h = 16 for the Diagonal BiLSTM; the size of PixelCNN's own net is not published
        "mnist": {"shape": (1, 28, 28), "levels": 2, "features": 16, "blocks": 7, "head_features": 32},
        "tiny": {"shape": (1, 8, 8), "levels": 17, "features": 8, "blocks": 2, "head_features": 16},
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        features: int = 64,
        blocks: int = 12,
        kernel_size: int = 3,
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
        self.first = MaskedConv2d(self.input_features, 2 * features, first_kernel_size, "A", self.colours)
        self.first_condition = ConditionBias(self.condition.features, 2 * features) if self.condition else None
        self.body = nn.ModuleList(_ResidualBlock(features, kernel_size, self.colours, self.condition) for _ in range(blocks))
        self.head = Head(2 * features, head_features, self.likelihood.params, self.colours, self.likelihood.precise)

    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        x = self.first(inputs)
        if self.first_condition is not None:
            x = x + self.first_condition(h)
        for block in self.body:
            x = self.run(block, x, h)
        return self.head(x)

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> _Cache:
        width = (size or self.shape[1:])[1]
        return _Cache(
            first=self.first.start(batch, width),
            bias=None if self.first_condition is None else self.first_condition.start(h),
            blocks=[block.start(batch, width, h) for block in self.body],
            head=self.head.start(batch, width),
        )

    def begin_row(self, cache: _Cache, x: Tensor, i: int) -> None:
        if i > 0:
            cache.first.row.image.copy_(self.encode(x[:, :, i - 1]).transpose(1, 2))
        self.first.begin_row(cache.first, i, None if cache.bias is None else condition_row(cache.bias, i))
        for block, memory in zip(self.body, cache.blocks, strict=True):
            block.begin_row(memory, i)

    def step(self, cache: _Cache, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        newest = j if c else j - 1  # the symbol that was chosen after the step before
        if newest >= 0:
            cache.first.row.columns[newest].copy_(self.encode(x[:, :, i, newest]))
        y = self.first.step_seen(cache.first, j, c)
        for block, memory in zip(self.body, cache.blocks, strict=True):
            y = block.step(memory, y, j, c)
        return self.head.step(cache.head, y, j, c)
