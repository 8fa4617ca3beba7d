"""The contract of every architecture, and what all of them inherit from it.

    forward(x)[:, :, i, j] == step(..., i, j)    for every place, stepping over x in the model's order         (the contract)

The left side is the parallel path (training, likelihood), the right side the scan (sampling, completion, coding), and a scan
costs the arithmetic of one forward pass. The order is raster order, and `step` the model's own, unless it says otherwise in
`strides` and `parts`. In float64 the two agree to 1e-10; tests/test_contract.py holds every model of
`nextpixel.MODELS` to it.
"""

import copy
import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextpixel.conditions import Condition, make_condition
from nextpixel.errors import InputError
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput
from nextpixel.likelihoods import Likelihood, make_likelihood
from nextpixel.sampling.draw import Sampling
from nextpixel.sampling.guidance import Guidance
from nextpixel.sampling.interpolate import Interpolation

Inputs = Literal["intensity", "embedding"]


class AutoregressiveModel(Interpolation, Sampling, Guidance, nn.Module):
    r"""An image model with an exact likelihood, :math:`p(x) = \prod_{i,j,c} p(x_{ijc} \mid x_{\text{earlier}})`.

    A new architecture is one file with a subclass that defines `network`, `start`, `begin_row` and `step`, and keeps every
    constructor argument as an attribute of the same name; the rest is inherited.

    Attributes:
        strides: a scan makes one pass over the places of x[:, :, ::s, ::s] for each stride s, each dividing the one before, and
            chooses the symbols that no coarser pass has chosen. The last is 1; one pass is raster order.
        recompute: whether training computes the inside of each block again for its gradient instead of keeping it: less memory
            for one more forward pass. False, until somebody sets it; it is no part of the model, and not saved.

    Args:
        shape: (C, H, W) of the training images. Fully convolutional models take any H and W at use time.
        levels: symbols are the integers 0..levels-1, from 2 to 8192.
        likelihood: "categorical" or "logistic-mixture".
        inputs: "intensity" feeds symbols as numbers from -1 to 1, "embedding" as learned vectors (codes without order).
        embedding_features: size of these vectors.
        condition: None, or `Labels`, `Vector`, `SpatialMap`, `Encoded`, a `Combination` (or the `config` of one).
        mixtures: components, where the likelihood is a mixture.

    Raises:
        InputError: sizes that make no image model.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    strides: tuple[int, ...] = (1,)
    recompute: bool = False

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        likelihood: str,
        inputs: Inputs,
        embedding_features: int,
        condition: Condition | dict | None,
        mixtures: int = 10,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"shape must be (channels, height, width), each at least 1, not {tuple(shape)}")
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.levels, self.inputs, self.embedding_features = levels, inputs, embedding_features
        self.mixtures = mixtures
        self.likelihood: Likelihood = make_likelihood(likelihood, self.shape[0], levels, mixtures=mixtures)
        self.condition = make_condition(condition)
        if self.condition is not None:
            self.condition.prepare(self.shape, levels)
        if inputs not in ("intensity", "embedding"):
            raise InputError(f"inputs must be 'intensity' or 'embedding', not {inputs!r}")
        require_positive(embedding_features=embedding_features)
        embedding = inputs == "embedding"
        self.encode = EmbeddingInput(self.shape[0], levels, embedding_features) if embedding else IntensityInput(levels)
        self.input_features = self.shape[0] * (embedding_features if embedding else 1)

    # --- the contract ------------------------------------------------------------------------------------------------

    @abstractmethod
    def network(self, inputs: Tensor, h: Tensor | None = None) -> Tensor:
        """Encoded images (B, F, H, W) and encoded condition h to params (B, P, H, W), causally."""

    @abstractmethod
    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> Any:
        """A cache for one scan over `batch` images of `size` (H, W) under the encoded condition h.

        It belongs to the caller and is never stored on a module. All work on h is done here, once per scan.
        """

    @abstractmethod
    def begin_row(self, cache: Any, x: Tensor, i: int) -> None:
        """Row clock: everything that row i takes from the finished rows of x, for all its columns at once."""

    @abstractmethod
    def step(self, cache: Any, x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        """Pixel and channel clock: params (B, P) of place (i, j), exact for the channels up to c.

        Rows are begun in order, places stepped in raster order, and colour groups 0, 1, ... of a place in order; a step may
        be repeated. Where the likelihood couples the channels there is one colour group. Scans have no gradients: call the three
        methods under `torch.no_grad()`. The result is the cache's own tensor, which the next step overwrites.
        """

    def row_kind(self, i: int) -> int:
        """Rows i > 0 of one kind ask the same of torch, call by call, on the same memory of the cache: one program runs them."""
        return 0

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple["AutoregressiveModel", Tensor | None]]:
        """For each pass the model that scans it, and that model's encoded condition: here itself, and h.

        Each is made when its pass begins, and may read what the passes before it have chosen in x.
        """
        yield self, h

    def forward(self, x: Tensor, cond: Any = None, kept: Tensor | None = None) -> Tensor:
        """Integers x (B, C, H, W) to params (B, P, H, W): what stands at (i, j) depends on earlier places only.

        `kept`, bool (B,), says which images keep their condition; the others are unconditional, by default none.
        """
        batch, _, height, width = x.shape
        return self.network(self.encode(x), self.encode_condition(cond, batch, height, width, kept))

    # --- inherited ---------------------------------------------------------------------------------------------------

    def order(self, height: int, width: int) -> Tensor:
        """When each symbol's turn comes in a scan, (C, H, W): pass by pass, row by row, column by column, channel by channel.

        Example:
            >>> import nextpixel
            >>> nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1).order(2, 3).tolist()
            [[[0, 1, 2], [3, 4, 5]]]
        """
        passes = torch.empty(height, width, dtype=torch.long)
        for k, stride in reversed(list(enumerate(self.strides))):
            passes[::stride, ::stride] = k  # a coarser pass has a place before a finer one
        places = passes.flatten().argsort(stable=True).argsort().view(height, width)
        channels = torch.arange(self.shape[0])[:, None, None]
        return places * self.shape[0] + channels

    def log_prob(self, x: Tensor, cond: Any = None, guidance: float = 1.0) -> Tensor:
        """log p(x) of whole images in nats: x (B, C, H, W) integers give (B,).

        Args:
            x: the images.
            cond: the condition, for one image or for all.
            guidance: s, the exact law that `sample` draws from with this guidance; 1 is the model itself.

        Raises:
            InputError: x is not integer, has other channels, or symbols outside 0..levels-1; or `cond` or `guidance` do not fit.

        Example:
            >>> import nextpixel
            >>> model = nextpixel.GatedPixelCNN(shape=(1, 8, 8), levels=2, features=8, blocks=2)
            >>> model.log_prob(torch.zeros(5, 1, 8, 8, dtype=torch.long)).shape
            torch.Size([5])
        """
        x = self.check_images(x)
        if guidance != 1:
            return self._guided_log_prob(x, cond, guidance)
        return self.likelihood.log_prob(self(x, cond), x).flatten(1).sum(1)

    def bits_per_dim(self, x: Tensor, cond: Any = None, guidance: float = 1.0) -> Tensor:
        """-log2 p(x) divided by the image's C * H * W numbers, (B,)."""
        return -self.log_prob(x, cond, guidance) / (x[0].numel() * math.log(2))

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Data-dependent initialisation from images (B, C, H, W), before the first training step, in the papers that have one.

        Raises:
            InputError: as `log_prob`.
        """
        self.check_images(x)

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and a model card to a folder that `nextpixel.load` reads."""
        from nextpixel.models.storage import save

        save(self, folder)

    # --- shared parts ------------------------------------------------------------------------------------------------

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """What a block of the network makes of its inputs; with `recompute`, of its inside nothing is kept for the gradient."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values: `type(model)(**model.config)` builds the same network."""
        return {name: _plain(getattr(self, name)) for name in inspect.signature(type(self).__init__).parameters if name != "self"}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def codes(self) -> bool:
        """Whether symbols are codes without order: what reads numbers into them (pictures, quantisation) must not."""
        return self.inputs == "embedding"

    @property
    def colours(self) -> int:
        """How many colour groups the network's maps are split into."""
        return self.likelihood.colours

    def encode_condition(self, cond: Any, batch: int, height: int, width: int, kept: Tensor | None = None) -> Tensor | None:
        """The maps h of a condition, or None for an unconditional model; 0 for the images that are not `kept`, bool (B,).

        Raises:
            InputError: a condition is missing, superfluous or does not fit.
        """
        if self.condition is None:
            if cond is not None:
                raise InputError("this model takes no condition, but one was given")
            return None
        if cond is None:
            raise InputError(f"this model needs a condition ({self.condition.config}), but none was given")
        h = self.condition(cond, batch, height, width)
        return h if kept is None else torch.where(kept[:, None, None, None], h, 0)

    def check_images(self, x: Tensor) -> Tensor:
        """x as int64 on the model's device.

        Raises:
            InputError: not an integer tensor (B, C, H, W) of symbols 0..levels-1 with this model's channels.
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0] or min(x.shape) < 1:
            raise InputError(f"images must be (B, {self.shape[0]}, H, W), not {tuple(x.shape)}")
        if x.is_floating_point() or x.is_complex():
            raise InputError(f"images must be integers 0..{self.levels - 1}, not {x.dtype}")
        x = x.to(self.device, torch.long)
        if x.min() < 0 or x.max() >= self.levels:
            raise InputError(f"images must have symbols 0..{self.levels - 1}, but these have {x.min()}..{x.max()}")
        self.check_size(tuple(x.shape[2:]))
        return x

    def check_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """(H, W), by default that of the training images.

        Raises:
            InputError: a side below 1.
        """
        height, width = size or self.shape[1:]
        if height < 1 or width < 1:
            raise InputError(f"size must be (height, width), each at least 1, not {size}")
        return height, width


def require_positive(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        InputError: the first such size, by name.

    Example:
        >>> require_positive(features=8, blocks=0)
        Traceback (most recent call last):
        nextpixel.errors.InputError: blocks must be at least 1, not 0
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, not {size}")


def _plain(value: Any) -> Any:
    if isinstance(value, Likelihood):
        return value.name
    if isinstance(value, Condition):
        return value.config
    return list(value) if isinstance(value, tuple) else copy.deepcopy(value)
