"""PixelRNN: residual blocks of two-dimensional LSTMs, the Row LSTM and the Diagonal BiLSTM.

Paper: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759: section 3.1 (Row LSTM),
3.2 (Diagonal BiLSTM), 3.3 (residual and skip connections), 3.4 (masks), Table 1 (sizes).

    x -> 7x7 mask A: 2h maps -> blocks -> ReLU, 1x1 mask B -> ReLU, 1x1 mask B -> params

    a block    2h --- LSTM: 2h -> h --- 1x1 mask B: h -> 2h --- + --- 2h
               +------------------------------------------------+
                                   |
                     with skip connections, 1x1 mask B: h -> 2h, to the head

Deviations: the non-linearity of the gate g is a tanh (equation 3 writes one sigma for all four gates). The right-to-left half of
the first Diagonal BiLSTM also reads the image itself through a 1x1 (see layers/diagonal_lstm.py), which makes the context
complete, as in section 3.2. Forget gates begin with a bias of 1. An optional condition (not in this paper) enters every
input-to-state map as the bias V h. Where features are not a multiple of the channels, colour groups differ by one map.
Multi-scale (section 3.6) is models/multiscale.py, PixelCNN (section 3.5) models/pixelcnn.py.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextpixel.conditions import Condition
from nextpixel.errors import require_positive
from nextpixel.layers.diagonal_lstm import DiagonalBiLSTMLayer, DiagonalCache
from nextpixel.layers.grid import Each, same
from nextpixel.layers.lstm import RowLSTMCache, RowLSTMLayer
from nextpixel.layers.masked import ConvCache, Head, HeadCache, MaskedConv2d
from nextpixel.layers.recurrence import batch_first, batch_last, product
from nextpixel.models.base import Inputs, RasterModel


@dataclass
class _BlockCache:
    lstm: RowLSTMCache | DiagonalCache
    expand: list[Tensor]  # [colour group]: (h, 2h of c)
    skip: list[Tensor]
    above: list[Each[Tensor]]  # [colour group][column]: where the next block finds its input


class _Block(nn.Module):
    """An LSTM with what connects it (Figure 5, right): the stream that goes on, and the sum of skips that goes to the head."""

    def __init__(self, lstm: RowLSTMLayer | DiagonalBiLSTMLayer, colours: int, residual: bool, skip: bool) -> None:
        super().__init__()
        h = lstm.features
        self.lstm = lstm
        self.expand = MaskedConv2d(h, 2 * h, 1, "B", colours, bias=False) if residual else None
        self.skip = MaskedConv2d(h, 2 * h, 1, "B", colours, bias=False) if skip else None

    def forward(self, x: Tensor, skips: Tensor | None, h: Tensor | None, *image: Tensor) -> tuple[Tensor, Tensor | None]:
        y = self.lstm(x, h, *image)
        if self.skip is not None:
            skips = _product(self.skip, y) if skips is None else skips + _product(self.skip, y)
        return y if self.expand is None else x + _product(self.expand, y), skips

    def start(self, batch: int, width: int, h: Tensor | None) -> _BlockCache:
        lstm = self.lstm.start(batch, width, h)
        expand, skip = _weights(self.expand), _weights(self.skip)
        outs = [same(weight.new_empty(batch, weight.shape[1])) for weight in expand]
        return _BlockCache(lstm, expand, skip, above=outs)

    def step(self, cache: _BlockCache, skips: Tensor | None, j: int, c: int) -> tuple[Tensor, Tensor | None]:
        """From where this block finds its input to where the next one does."""
        y, window = self.lstm.step_seen(cache.lstm, j, c), cache.lstm.outputs[j]
        if self.skip is not None:
            skips = window @ cache.skip[c] if skips is None else skips.addmm_(window, cache.skip[c])
        if self.expand is not None:
            y = torch.addmm(cache.lstm.inputs[c][j], window, cache.expand[c], out=cache.above[c][j])
        elif cache.above:
            y = cache.above[c][j].copy_(y)
        return y, skips


def _weights(layer: MaskedConv2d | None) -> list[Tensor]:
    """The matrices of a 1x1 layer by colour group; none without a layer."""
    if layer is None:
        return []
    matrix = layer.matrix().detach()
    return [matrix[:, maps].contiguous() for maps in layer.outputs(matrix.device)]


def _product(layer: MaskedConv2d, x: Tensor) -> Tensor:
    """A 1x1 layer on maps whose memory has the batch last, as the LSTMs leave it."""
    return batch_first(product(layer.matrix().t(), batch_last(x)))


@dataclass
class _Cache:
    first: ConvCache
    blocks: list[_BlockCache]
    head: HeadCache


class _PixelRNN(RasterModel):
    """What both networks share: everything but the LSTM.

    Args:
        shape: (C, H, W) of the training images; any H and W at use time.
        levels: symbols 0..levels-1.
        features: h, maps of an LSTM; the maps between blocks are 2h.
        blocks: LSTM layers.
        residual: whether each block adds to its input; without, a block's h maps are the next one's input.
        skip: whether every LSTM also goes to the head by a 1x1 of its own.
        first_kernel_size: of the mask A convolution.
        head_features: maps of the 1x1 head (the paper: 1024 for colour images, 32 for MNIST).
        likelihood: distribution of a place.
        mixtures: components, where the likelihood is a mixture.
        inputs: "intensity" or "embedding" (codes without order).
        embedding_features: size of an embedding.
        condition: what images may depend on, or None.
    """

    first_reads_image: ClassVar[bool] = False

    def _build(
        self,
        features: int,
        blocks: int,
        residual: bool,
        skip: bool,
        first_kernel_size: int,
        head_features: int,
    ) -> None:
        require_positive(features=features, blocks=blocks, head_features=head_features)
        self.features, self.blocks, self.head_features = features, blocks, head_features
        self.residual, self.skip = residual, skip
        self.first_kernel_size = first_kernel_size
        self.first = MaskedConv2d(self.input_features, 2 * features, first_kernel_size, "A", self.colours)
        self.body = nn.ModuleList(
            _Block(
                self._layer(2 * features if k == 0 or residual else features, first=k == 0),
                self.colours,
                residual,
                skip,
            )
            for k in range(blocks)
        )
        maps = 2 * features if residual or skip else features
        self.head = Head(maps, head_features, self.likelihood.params, self.colours, self.likelihood.precise)

    def _layer(self, in_features: int, first: bool) -> RowLSTMLayer | DiagonalBiLSTMLayer:
        raise TypeError("_PixelRNN is no network: use RowLSTM or DiagonalBiLSTM")

    def _to_head(self, x: Tensor, skips: Tensor | None) -> Tensor:
        """What the head reads: the last block's stream with residual connections, the skips, or both."""
        if skips is None:
            return x
        return x + skips if self.residual else skips

    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        x, skips = batch_first(batch_last(self.first(inputs)).contiguous()), None
        for k, block in enumerate(self.body):
            image = (inputs,) if k == 0 and self.first_reads_image else ()
            x, skips = self.run(block, x, skips, h, *image)
        return self.head(self._to_head(x, skips).contiguous())

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> _Cache:
        width = (size or self.shape[1:])[1]
        blocks = [block.start(batch, width, h) for block in self.body]
        for block, following in pairwise(blocks):
            block.above = following.lstm.inputs
        return _Cache(self.first.start(batch, width), blocks, self.head.start(batch, width))

    def begin_row(self, cache: _Cache, x: Tensor, i: int) -> None:
        image = cache.first.row.image
        if i > 0:
            image.copy_(self.encode(x[:, :, i - 1]).transpose(1, 2))
        self.first.begin_row(cache.first, i)
        for k, (block, memory) in enumerate(zip(self.body, cache.blocks, strict=True)):
            block.lstm.begin_row(memory.lstm, i, *((image,) if k == 0 and self.first_reads_image else ()))

    def step(self, cache: _Cache, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        newest = j if c else j - 1  # the symbol that was chosen after the step before
        if newest >= 0:
            cache.first.row.columns[newest].copy_(self.encode(x[:, :, i, newest]))
        self.first.step_seen(cache.first, j, c, to=cache.blocks[0].lstm.inputs[c][j])
        skips = None
        for block, memory in zip(self.body, cache.blocks, strict=True):
            y, skips = block.step(memory, skips, j, c)
        return self.head.step(cache.head, self._to_head(y, skips), j, c)


class RowLSTM(_PixelRNN):
    """Row LSTM layers: fast, with a triangular context (arXiv:1601.06759, section 3.1).

    Args:
        kernel_size: k of input-to-state and state-to-state; a place sees k // 2 more columns to the right with each row
            further up.

    Example:
        >>> model = RowLSTM(shape=(3, 8, 8), levels=4, features=6, blocks=2)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 3, 8, 8])
    """

    name = "row-lstm"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Table 1 and sections 5.4 to 5.6. Of MNIST the paper gives sizes for the Diagonal BiLSTM only; these are the same.
        "mnist": {"shape": (1, 28, 28), "levels": 2, "features": 16, "blocks": 7, "head_features": 32},
        "cifar10": {"shape": (3, 32, 32), "levels": 256, "features": 128, "blocks": 12, "head_features": 1024},
        "imagenet32": {"shape": (3, 32, 32), "levels": 256, "features": 384, "blocks": 12, "head_features": 1024},
        "imagenet64": {
            "shape": (3, 64, 64),
            "levels": 256,
            "features": 512,
            "blocks": 4,
            "residual": False,
            "head_features": 1024,
        },
        "tiny": {"shape": (1, 8, 8), "levels": 17, "features": 6, "blocks": 2, "head_features": 16},
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        features: int = 64,
        blocks: int = 7,
        kernel_size: int = 3,
        residual: bool = True,
        skip: bool = False,
        first_kernel_size: int = 7,
        head_features: int = 128,
        likelihood: str = "categorical",
        mixtures: int = 10,
        inputs: Inputs = "intensity",
        embedding_features: int = 16,
        condition: Condition | dict | None = None,
    ) -> None:
        super().__init__(shape, levels, likelihood, inputs, embedding_features, condition, mixtures)
        self.kernel_size = kernel_size
        self._build(features, blocks, residual, skip, first_kernel_size, head_features)

    def _layer(self, in_features: int, first: bool) -> RowLSTMLayer:
        condition = self.condition.features if self.condition else 0
        return RowLSTMLayer(in_features, self.features, self.kernel_size, self.colours, condition)


class DiagonalBiLSTM(_PixelRNN):
    """Diagonal BiLSTM layers: each sees the complete past (arXiv:1601.06759, section 3.2).

    Example:
        >>> model = DiagonalBiLSTM(shape=(1, 8, 6), levels=2, features=6, blocks=2)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 1, 8, 6])
    """

    name = "diagonal-bilstm"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Table 1 and sections 5.4 to 5.6
        "mnist": {"shape": (1, 28, 28), "levels": 2, "features": 16, "blocks": 7, "head_features": 32},
        "mnist-1x32": {"shape": (1, 28, 28), "levels": 2, "features": 32, "blocks": 1, "head_features": 32},
        "cifar10": {"shape": (3, 32, 32), "levels": 256, "features": 128, "blocks": 12, "head_features": 1024},
        "tiny": {"shape": (1, 8, 8), "levels": 17, "features": 6, "blocks": 2, "head_features": 16},
    }
    first_reads_image: ClassVar[bool] = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        features: int = 64,
        blocks: int = 7,
        residual: bool = True,
        skip: bool = False,
        first_kernel_size: int = 7,
        head_features: int = 128,
        likelihood: str = "categorical",
        mixtures: int = 10,
        inputs: Inputs = "intensity",
        embedding_features: int = 16,
        condition: Condition | dict | None = None,
    ) -> None:
        super().__init__(shape, levels, likelihood, inputs, embedding_features, condition, mixtures)
        self._build(features, blocks, residual, skip, first_kernel_size, head_features)

    def _layer(self, in_features: int, first: bool) -> DiagonalBiLSTMLayer:
        condition = self.condition.features if self.condition else 0
        return DiagonalBiLSTMLayer(in_features, self.features, self.colours, condition, self.input_features if first else 0)
