"""PixelCNN++: two streams of gated ResNet blocks on three resolutions, and a mixture of discretized logistics.

Paper: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and
Other Modifications", 2017, arXiv:1701.05517: section 2.1 and 2.2 (likelihood), 2.3 (down-sampling), 2.4 (short-cuts), 2.5
(dropout), Figure 2; what the paper leaves open follows the authors' code.

    32x32   image -> u0, ul0 -> [n resnets] --(short-cuts)----------------------> [n + 1 resnets] -> ELU, 1x1 -> params
                                     | 2x3 / 2x2, stride 2                              ^ transposed
    16x16                       [n resnets] --(short-cuts)---------> [n + 1 resnets] ---+
                                     | stride 2                           ^ transposed
    8x8                         [n resnets] --(short-cuts)-> [n resnets] -+

    u    reads all rows above        row clock
    ul   takes u, and reads the row's left part as well      row and pixel clock

A coarse row or column ticks at every second one of the finer resolution: a place (i, j) runs the resolutions s with i and j
divisible by 2^s, and reads what the coarser ones have left at their last tick.

Deviations: images whose sides are not multiples of 4 are padded below and on the right (with zeros, where the map of ones is zero
too), so any size will do. A condition that is a map is averaged to the coarser resolutions. A categorical likelihood of several
channels adds their chain R -> G -> B in the head. The authors' configuration has 160 filters, where the paper has 192.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.conditions import Condition
from nextpixel.errors import InputError, require_positive
from nextpixel.layers.grid import Each, RowConvolution, same
from nextpixel.layers.pixelcnn_pp import (
    FirstStreams,
    FirstStreamsCache,
    LeftCache,
    LeftResnet,
    PlaceHead,
    PlaceHeadCache,
    UpperCache,
    UpperResnet,
)
from nextpixel.layers.pointwise import concat_elu_to
from nextpixel.layers.shifted import (
    DeconvCache,
    DownRightCache,
    DownRightShiftedConv2d,
    DownRightShiftedDeconv2d,
    DownShiftedConv2d,
    DownShiftedDeconv2d,
    WeightNormConv2d,
)
from nextpixel.models.base import Inputs, RasterModel


class _Blocks(nn.Module):
    """The gated ResNet blocks of one resolution, on the way up or down: in each the ul stream takes the u beside it."""

    def __init__(self, number: int, features: int, short_cuts: int, dropout: float, condition: int) -> None:
        super().__init__()
        self.u = nn.ModuleList(UpperResnet(features, short_cuts, dropout, condition) for _ in range(number))
        self.ul = nn.ModuleList(LeftResnet(features, short_cuts + 1, dropout, condition) for _ in range(number))


@dataclass
class _StageCache:
    """One resolution, and its links to the next coarser one."""

    up_u: list[UpperCache]
    up_ul: list[LeftCache]
    down_u: list[UpperCache]
    down_ul: list[LeftCache]
    top: tuple[Tensor, ...]  # concat_elu of the last ul on the way up, (B, 2F), and its halves
    shrink_u: RowConvolution | None
    shrink_ul: DownRightCache | None
    grow_u: tuple[Tensor, Tensor] | None
    grow_ul: DeconvCache | None
    u: Tensor | None = None  # (W, B, F): the last row of u on the way down


@dataclass
class _Cache:
    first: FirstStreamsCache
    stages: list[_StageCache]
    ticks: Each[int]  # how many resolutions a row or column runs
    head: PlaceHeadCache


class PixelCNNpp(RasterModel):
    """PixelCNN++ (arXiv:1701.05517).

    Args:
        shape: (C, H, W) of the training images; any H and W at use time.
        levels: symbols 0..levels-1.
        features: maps of each stream (filters).
        blocks: gated ResNet blocks of a resolution on the way up; on the way down one more, except at the coarsest.
        stages: resolutions; 1 is the plain stack of blocks of the paper's small-field variants (Table 2), without a way down.
        dropout: probability that an element is dropped in training.
        short_cuts: whether the way down takes up what the way up has left. Without them (the paper's ablation) all passes through
            the coarsest resolution, and a place does not see its neighbours in the same coarse cell.
        likelihood: distribution of a place.
        mixtures: components, where the likelihood is a mixture.
        inputs: "intensity" or "embedding" (codes without order).
        embedding_features: size of an embedding.
        condition: what images may depend on, or None.

    Example:
        >>> model = PixelCNNpp(shape=(3, 8, 8), levels=256, features=8, blocks=1)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 3, 8, 8])
    """

    name = "pixelcnn++"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The authors' configuration for CIFAR-10: 53,659,080 parameters
        "paper": {"shape": (3, 32, 32), "levels": 256, "features": 160, "blocks": 5},
        # 1,519,320 parameters
        "small": {"shape": (3, 32, 32), "levels": 256, "features": 40, "blocks": 2},
        # Table 2's models of small field. The paper gives the fields and not the blocks: these stacks come nearest, and see 12
        # columns by 7 rows above, and 16 by 9 (measured from the Jacobian)
        "field-11x5": {"shape": (3, 32, 32), "levels": 256, "features": 160, "blocks": 2, "stages": 1},
        "field-15x8": {"shape": (3, 32, 32), "levels": 256, "features": 160, "blocks": 3, "stages": 1},
        "tiny": {"shape": (1, 8, 8), "levels": 17, "features": 6, "blocks": 1, "mixtures": 2},
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        features: int = 40,
        blocks: int = 2,
        stages: int = 3,
        dropout: float = 0.5,
        short_cuts: bool = True,
        likelihood: str = "logistic-mixture",
        mixtures: int = 10,
        inputs: Inputs = "intensity",
        embedding_features: int = 16,
        condition: Condition | dict | None = None,
    ) -> None:
        super().__init__(shape, levels, likelihood, inputs, embedding_features, condition, mixtures)
        require_positive(features=features, blocks=blocks, stages=stages)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be from 0 up to (not including) 1, not {dropout}")
        self.features, self.blocks, self.stages = features, blocks, stages
        self.dropout, self.short_cuts = dropout, short_cuts
        last, maps = stages - 1, 0 if self.condition is None else self.condition.features
        self.first = FirstStreams(self.input_features + 1, features)
        self.up = nn.ModuleList(_Blocks(blocks, features, 0, dropout, maps) for _ in range(stages))
        self.shrink_u = nn.ModuleList(DownShiftedConv2d(features, features, stride=2) for _ in range(last))
        self.shrink_ul = nn.ModuleList(DownRightShiftedConv2d(features, features, stride=2) for _ in range(last))
        self.down = nn.ModuleList(
            _Blocks(blocks + (s < last), features, int(short_cuts), dropout, maps) for s in range(stages if last else 0)
        )
        self.grow_u = nn.ModuleList(DownShiftedDeconv2d(features, features) for _ in range(last))
        self.grow_ul = nn.ModuleList(DownRightShiftedDeconv2d(features, features) for _ in range(last))
        hidden = features * self.colours
        likelihood = self.likelihood
        self.head = PlaceHead(features, hidden, likelihood.params, likelihood.colours, self.input_features, likelihood.precise)

    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        height, width = inputs.shape[2:]
        padded = self._padded(height, width)
        x = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        x = F.pad(x, (0, padded[1] - width, 0, padded[0] - height))
        hs = self._resolutions(h, padded)
        u, ul = self.first(x)
        us, uls = [u], [ul]
        for s in range(self.stages):
            if s:
                u, ul = self.shrink_u[s - 1](u), self.shrink_ul[s - 1](ul)
                us.append(u)
                uls.append(ul)
            for block_u, block_ul in zip(self.up[s].u, self.up[s].ul, strict=True):
                u = self.run(block_u, u, (), hs[s])
                ul = self.run(block_ul, ul, (u,), hs[s])
                us.append(u)
                uls.append(ul)
        del us[-1], uls[-1]
        for s in reversed(range(len(self.down))):
            for block_u, block_ul in zip(self.down[s].u, self.down[s].ul, strict=True):
                u = self.run(block_u, u, (us.pop(),) if self.short_cuts else (), hs[s])
                ul = self.run(block_ul, ul, (u, uls.pop()) if self.short_cuts else (u,), hs[s])
            if s:
                u, ul = self.grow_u[s - 1](u), self.grow_ul[s - 1](ul)
        return self.head(ul[:, :, :height, :width], inputs)

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        hooks = [
            layer.register_forward_pre_hook(lambda layer, args: layer.initialise(*args))
            for layer in self.modules()
            if isinstance(layer, WeightNormConv2d)
        ]
        try:
            with torch.no_grad():
                self(self.check_images(x), cond)
        finally:
            for hook in hooks:
                hook.remove()

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> _Cache:
        height, width = size or self.shape[1:]
        padded = self._padded(height, width)
        hs = self._resolutions(h, padded)
        stages = [self._start_stage(s, batch, padded[1] >> s, hs[s]) for s in range(self.stages)]
        return _Cache(self.first.start(batch, padded[1], width), stages, Each(self.row_kind), self.head.start(batch))

    def _start_stage(self, s: int, batch: int, width: int, h: Tensor | None) -> _StageCache:
        up_u, up_ul = ([block.start(batch, width, h) for block in blocks] for blocks in (self.up[s].u, self.up[s].ul))
        coarsest = s == self.stages - 1
        top = up_ul[0].first.part.new_empty(batch, 2 * self.features)
        seen = [cache.first_row.slots for cache in up_ul] + [same(top)] * (not coarsest)
        down_u, down_ul = (self.down[s].u, self.down[s].ul) if self.down else ((), ())
        return _StageCache(
            up_u,
            up_ul,
            [block.start(batch, width, h) for block in down_u],
            [block.start(batch, width, h, seen.pop() if self.short_cuts else None) for block in down_ul],
            (top, *top.chunk(2, 1)),
            None if coarsest else self.shrink_u[s].start(batch, width // 2),
            None if coarsest else self.shrink_ul[s].start(batch, width // 2),
            None if coarsest else self.grow_u[s].start(),
            None if coarsest else self.grow_ul[s].start(batch, width // 2),
        )

    def begin_row(self, cache: _Cache, x: Tensor, i: int) -> None:
        if i > 0:
            cache.first.image[: x.shape[3], :, :-1] = self.encode(x[:, :, i - 1]).permute(2, 0, 1)
        u = self.first.begin_row(cache.first, i)
        us = [u]
        for s, stage in enumerate(cache.stages[: cache.ticks[i]]):
            if s:
                u = cache.stages[s - 1].shrink_u()
                self.shrink_ul[s - 1].begin_row(cache.stages[s - 1].shrink_ul)
                us.append(u)
            for block_u, block_ul, memory_u, memory_ul in zip(self.up[s].u, self.up[s].ul, stage.up_u, stage.up_ul, strict=True):
                u = block_u.begin_row(memory_u, u, None, i >> s)
                block_ul.begin_row(memory_ul, u, i >> s)
                us.append(u)
            if stage.shrink_u is not None:
                stage.shrink_u.push(u)
        if cache.ticks[i] == self.stages:
            us.pop()
        for s in reversed(range(cache.ticks[i] if self.down else 0)):
            stage = cache.stages[s]
            if stage.grow_u is not None:
                u = self.grow_u[s].begin_row(stage.grow_u, cache.stages[s + 1].u, i >> s)
                self.grow_ul[s].begin_row(stage.grow_ul, i >> s)
            for block_u, block_ul, memory_u, memory_ul in zip(
                self.down[s].u, self.down[s].ul, stage.down_u, stage.down_ul, strict=True
            ):
                u = block_u.begin_row(memory_u, u, us.pop() if self.short_cuts else None, i >> s)
                block_ul.begin_row(memory_ul, u, i >> s)
            stage.u = u

    def row_kind(self, i: int) -> int:
        """How many resolutions tick."""
        return sum(i % 2**s == 0 for s in range(self.stages))

    def step(self, cache: _Cache, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        if c:
            return self.head.step_colour(cache.head, self.encode(x[:, :, i, j]), c)
        ul = self.first.step(cache.first, self.encode(x[:, :, i, j - 1]) if j else None, j)
        active = min(cache.ticks[i], cache.ticks[j])
        for s, stage in enumerate(cache.stages[:active]):
            if s:
                ul = self.shrink_ul[s - 1].step(cache.stages[s - 1].shrink_ul, j >> s)
            for block, memory in zip(self.up[s].ul, stage.up_ul, strict=True):
                ul = block.step(memory, ul, j >> s)
            if stage.shrink_ul is not None:
                for slot in stage.shrink_ul.row.slots[j >> s]:
                    slot.copy_(ul)
                concat_elu_to(*stage.top, ul)
        for s in reversed(range(active if self.down else 0)):
            stage = cache.stages[s]
            if stage.grow_ul is not None:
                ul = stage.grow_ul.columns[j >> s]
            for block, memory in zip(self.down[s].ul, stage.down_ul, strict=True):
                ul = block.step(memory, ul, j >> s)
            if s:
                self.grow_ul[s - 1].step(cache.stages[s - 1].grow_ul, ul, j >> s)
        return self.head.step(cache.head, ul)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """The sides rounded up to what the coarsest resolution divides."""
        unit = 2 ** (self.stages - 1)
        return -(-height // unit) * unit, -(-width // unit) * unit

    def _resolutions(self, h: Tensor | None, padded: tuple[int, int]) -> list[Tensor | None]:
        """The encoded condition on every resolution, from the finest."""
        if h is None or h.shape[2:] == (1, 1):
            return [h] * self.stages
        hs = [F.pad(h, (0, padded[1] - h.shape[3], 0, padded[0] - h.shape[2]))]
        while len(hs) < self.stages:
            hs.append(F.avg_pool2d(hs[-1], 2))
        return hs
