"""Multi-scale: a model draws a small image, and further ones, biased by it in every layer, fill in the finer grids.

Paper: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016, arXiv:1601.06759: section 3.6
(Multi-Scale PixelRNN).

    x[::4, ::4]   stage 0, unconditional            -> the small image, in raster order
         | 3x3, ReLU, transposed convolution, ReLU, 3x3
    x[::2, ::2]   stage 1, + V (upsampled map)      -> the other three of four places, in raster order
         | the same again                                each layer's V is an unmasked 1x1 convolution
    x             stage 2, + V (upsampled map)      -> the other three of four places

The small image is the large one on a sampled grid, as in the paper, so the chain rule gives an exact likelihood:

    p(x) = p(x[::4, ::4])  p(rest of x[::2, ::2] | x[::4, ::4])  p(rest of x | x[::2, ::2])

Each stage is any architecture of the registry, unchanged: it runs over its whole grid with its own masks, and sees pixels that a
coarser stage has drawn both in the upsampled map and, once passed, in its own inputs. Its params for these pixels are not used.

Deviations: the pixels of a coarser grid are kept; drawn again, they would be counted twice. A stage still runs over them, so
that its layers need no holes. The sizes of the upsampling network, which are not published, are ours. Not implemented: nothing
of section 3.6.
"""

import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextpixel.conditions import Condition, SpatialMap
from nextpixel.errors import InputError, require_positive
from nextpixel.layers.conditioning import Upsampler
from nextpixel.models.base import AutoregressiveModel, Inputs, RasterModel

# What all stages have in common: these belong to the whole model.
SHARED = ("shape", "levels", "likelihood", "mixtures", "inputs", "embedding_features", "condition")
TWO_STAGES: list[dict[str, Any]] = [{"stride": 2, "name": "gated-pixelcnn"}, {"stride": 1, "name": "gated-pixelcnn"}]


class MultiScale(AutoregressiveModel):
    """Stages from coarse to fine, each an autoregressive model of its grid given the coarser one (arXiv:1601.06759, section 3.6).

    Args:
        shape: (C, H, W) of the training images; any H and W at use time.
        levels: symbols 0..levels-1.
        stages: coarsest first; of each its stride, the name of its architecture, and further arguments of that. A stride divides
            the one before it, and the last is 1.
        upsampler_features: maps of each upsampling network, and of its result.
        likelihood: distribution of a place.
        mixtures: components, where the likelihood is a mixture.
        inputs: "intensity" or "embedding" (codes without order; one table serves all stages).
        embedding_features: size of an embedding.
        condition: what images may depend on, or None. It reaches every stage.

    Raises:
        InputError: strides that do not nest, an unknown architecture, or arguments that it does not take.

    Example:
        >>> stages = [{"stride": 2, "name": "gated-pixelcnn", "features": 8, "blocks": 2}, {"stride": 1, "name": "pixelcnn++"}]
        >>> model = MultiScale(shape=(1, 8, 8), levels=17, stages=stages)
        >>> model.sample(2, seed=1).shape
        torch.Size([2, 1, 8, 8])
    """

    name = "multiscale"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The paper gives no sizes for its multi-scale models: these are ours. 8x8, 16x16, 32x32; 10,686,528 parameters
        "cifar10": {
            "shape": (3, 32, 32),
            "levels": 256,
            "upsampler_features": 96,
            "stages": [
                {"stride": 4, "name": "gated-pixelcnn", "features": 96, "blocks": 10, "kernel_size": 3, "head_features": 384},
                {"stride": 2, "name": "gated-pixelcnn", "features": 96, "blocks": 10, "kernel_size": 5, "head_features": 384},
                {"stride": 1, "name": "gated-pixelcnn", "features": 96, "blocks": 10, "kernel_size": 5, "head_features": 384},
            ],
        },
        # 7x7, 14x14, 28x28; 626,691 parameters
        "mnist": {
            "shape": (1, 28, 28),
            "levels": 2,
            "stages": [
                {"stride": 4, "name": "gated-pixelcnn", "features": 32, "blocks": 6, "kernel_size": 3, "head_features": 32},
                {"stride": 2, "name": "gated-pixelcnn", "features": 32, "blocks": 6, "kernel_size": 5, "head_features": 32},
                {"stride": 1, "name": "gated-pixelcnn", "features": 32, "blocks": 6, "kernel_size": 5, "head_features": 32},
            ],
        },
        "tiny": {
            "shape": (1, 8, 8),
            "levels": 17,
            "upsampler_features": 12,
            "stages": [
                {"stride": 2, "name": "gated-pixelcnn", "features": 8, "blocks": 2, "head_features": 16},
                {"stride": 1, "name": "pixelcnn", "features": 8, "blocks": 2, "head_features": 16},
            ],
        },
    }

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int = 256,
        stages: list[dict[str, Any]] = TWO_STAGES,
        upsampler_features: int = 32,
        likelihood: str = "categorical",
        mixtures: int = 10,
        inputs: Inputs = "intensity",
        embedding_features: int = 16,
        condition: Condition | dict | None = None,
    ) -> None:
        super().__init__(shape, levels, likelihood, inputs, embedding_features, condition, mixtures)
        require_positive(upsampler_features=upsampler_features)
        self.strides = _strides(stages)
        self.stages, self.upsampler_features = [dict(stage) for stage in stages], upsampler_features
        self.networks = nn.ModuleList(self._build(k) for k in range(len(stages)))
        self.upsamplers = nn.ModuleList(
            Upsampler(self.input_features, upsampler_features, coarse // fine) for coarse, fine in pairwise(self.strides)
        )

    def _build(self, k: int) -> RasterModel:
        """The model of stage k. Its inputs from the coarser stages and from the user's condition are maps."""
        settings = dict(self.stages[k])
        stride, architecture = settings.pop("stride"), _architecture(k, settings.pop("name"))
        takes = [name for name in inspect.signature(architecture).parameters if name not in SHARED]
        for name in settings:
            if name in SHARED:
                raise InputError(f"stage {k}: {name} belongs to the whole model, not to one of its stages")
            if name not in takes:
                raise InputError(f"stage {k}: {architecture.name} has no {name}: expected some of {', '.join(takes)}")
        channels, height, width = self.shape
        shared = {name: getattr(self, name) for name in SHARED}
        shared["shape"] = (channels, -(-height // stride), -(-width // stride))
        shared["likelihood"] = self.likelihood.name
        maps = (self.upsampler_features if k else 0) + (self.condition.features if self.condition else 0)
        shared["condition"] = SpatialMap(maps) if maps else None
        try:
            stage = architecture(**shared, **settings)
        except InputError as error:
            raise InputError(f"stage {k}, {architecture.name}: {error}") from error
        # One table of embeddings for all stages; beside the modules of the stage, because it is stored once, with the whole.
        del stage.encode
        object.__setattr__(stage, "encode", self.encode)
        return stage

    # --- the contract ------------------------------------------------------------------------------------------------

    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        found = [self._params(k, inputs[:, :, ::stride, ::stride], h) for k, stride in enumerate(self.strides)]
        params = torch.empty_like(found[-1])
        for stride, of_stage in reversed(list(zip(self.strides, found, strict=True))):
            params[:, :, ::stride, ::stride] = of_stage  # the coarser stage's params count
        return params

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple[RasterModel, Tensor | None]]:
        for k, (stage, stride) in enumerate(zip(self.networks, self.strides, strict=True)):
            coarser = self.strides[k - 1]
            coarse = self.encode(x[:, :, ::coarser, ::coarser]) if k else None
            yield stage, self._maps(k, coarse, h, x[:, :, ::stride, ::stride].shape[2:])

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        x = self.check_images(x)
        h = self.encode_condition(cond, x.shape[0], *x.shape[2:])
        with torch.no_grad():
            for stride, (stage, maps) in zip(self.strides, self.parts(x, h), strict=True):
                small = x[:, :, ::stride, ::stride]
                stage.initialise(small, None if maps is None else maps.expand(-1, -1, *small.shape[2:]))

    def _params(self, k: int, inputs: Tensor, h: Tensor | None) -> Tensor:
        """Stage k's params for its whole grid from the encoded image on that grid, and the user's h on the finest."""
        factor = self.strides[k - 1] // self.strides[k] if k else 1
        return self.networks[k].network(inputs, self._maps(k, inputs[:, :, ::factor, ::factor], h, inputs.shape[2:]))

    def _maps(self, k: int, coarse: Tensor | None, h: Tensor | None, size: tuple[int, int]) -> Tensor | None:
        """Stage k's condition on its grid: the upsampled image of the coarser stage, and the user's h."""
        if h is not None:
            h = h[:, :, :: self.strides[k], :: self.strides[k]]
        if k == 0:
            return h
        upsampled = self.upsamplers[k - 1](coarse, size)
        return upsampled if h is None else torch.cat([upsampled, h.expand(-1, -1, *size)], 1)

    # --- stage by stage ----------------------------------------------------------------------------------------------

    def log_prob_by_stage(self, x: Tensor, cond: Any = None) -> Tensor:
        """The share of each stage in log p(x), in nats: (B, number of stages), whose sum over stages is `log_prob`.

        Raises:
            InputError: as `log_prob`.

        Example:
            >>> model = MultiScale(**MultiScale.presets["tiny"])
            >>> model.log_prob_by_stage(torch.zeros(5, 1, 8, 8, dtype=torch.long)).shape
            torch.Size([5, 2])
        """
        x = self.check_images(x)
        return torch.stack([self.stage_log_prob(k, x, cond) for k in range(len(self.strides))], 1)

    def stage_log_prob(self, k: int, x: Tensor, cond: Any = None, kept: Tensor | None = None) -> Tensor:
        """Column k of `log_prob_by_stage`, (B,), at the cost of this stage alone; like `forward` it does not check x.

        `kept`, bool (B,), marks the images that keep their condition: the others keep the coarser image alone.
        """
        stride = self.strides[k]
        small = x[:, :, ::stride, ::stride]
        params = self._params(k, self.encode(small), self.encode_condition(cond, x.shape[0], *x.shape[2:], kept))
        nats = self.likelihood.log_prob(params, small)
        if k:  # the coarser stages' pixels count in their own shares
            factor = self.strides[k - 1] // stride
            own = torch.ones(nats.shape[1:], dtype=torch.bool, device=nats.device)
            own[::factor, ::factor] = False
            nats = torch.where(own, nats, 0)
        return nats.flatten(1).sum(1)

    def stage_parameters(self, k: int) -> Iterator[nn.Parameter]:
        """What belongs to stage k alone. A table of embeddings, and a condition's weights, belong to the first."""
        own = [self.networks[k], *([self.upsamplers[k - 1]] if k else [self.encode, self.condition])]
        return (parameter for module in own if module is not None for parameter in module.parameters())


def _strides(stages: list[dict[str, Any]]) -> tuple[int, ...]:
    if not isinstance(stages, list | tuple) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise InputError(f"stages must be a list of settings, each with a stride and a name, not {stages!r}")
    for k, stage in enumerate(stages):
        if not {"stride", "name"} <= stage.keys():
            raise InputError(f"stage {k} must have a stride and a name, not only {', '.join(map(str, stage)) or 'nothing'}")
    strides = tuple(stage["stride"] for stage in stages)
    if not all(type(stride) is int and stride > 0 for stride in strides):
        raise InputError(f"the stages' strides must be integers of at least 1, not {strides}")
    if strides[-1] != 1 or any(coarse <= fine or coarse % fine for coarse, fine in pairwise(strides)):
        raise InputError(f"the stages' strides must fall to 1, each a divisor of the one before, not {strides}")
    return strides


def _architecture(k: int, name: str) -> type[RasterModel]:
    from nextpixel.models import MODELS

    names = [other for other, model in MODELS.items() if issubclass(model, RasterModel)]
    if name not in names:
        raise InputError(f"stage {k} cannot be {name!r}: expected one of {', '.join(names)}")
    return MODELS[name]
