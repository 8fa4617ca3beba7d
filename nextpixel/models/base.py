"""The contract of every architecture, and what all of them inherit from it.

    forward(x)[:, :, i, j] == step(..., i, j)    for every place, stepping over x in the model's order         (the contract)

The left side is the parallel path (training, likelihood), the right side the scan (sampling, completion, coding), and a scan
costs the arithmetic of one forward pass. A `RasterModel` scans itself in raster order; other models declare their passes in
`strides` and `parts`. In float64 the two agree to 1e-10; tests/test_contract.py holds every model of
`nextpixel.MODELS` to it.
"""

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextpixel.conditions import Condition, make_condition
from nextpixel.conditions.base import as_tensor
from nextpixel.errors import InputError, require_positive
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput
from nextpixel.likelihoods import Likelihood, make_likelihood
from nextpixel.models.pretrained import Pretrained
from nextpixel.progress import Progress
from nextpixel.sampling import draw, interpolate
from nextpixel.sampling import particles as monte_carlo
from nextpixel.sampling.draw import Method, guided_log_prob
from nextpixel.scan.protocols import ModelScanner, Scanner

Inputs = Literal["intensity", "embedding"]


class AutoregressiveModel(nn.Module, Pretrained, ABC):
    r"""An image model with an exact likelihood, :math:`p(x) = \prod_{i,j,c} p(x_{ijc} \mid x_{\text{earlier}})`.

    This is what users hold. A class that lacks `network` or `parts` cannot be constructed. Most architectures are a
    `RasterModel`, which scans itself. A subclass keeps every constructor argument as an attribute of the same name.

    Attributes:
        strides: a scan makes one pass over the places of x[:, :, ::s, ::s] for each stride s, each dividing the one before, and
            chooses the symbols that no coarser pass has chosen. The last is 1; one pass is raster order.
        recompute: whether training computes the inside of each block again for its gradient instead of keeping it: less memory
            for one more forward pass. False by default; it is no part of the model, and not saved.

    Args:
        shape: (C, H, W) of the training images. Fully convolutional models take any H and W at use time.
        levels: symbols are the integers 0..levels-1, from 2 to 8192, or to 65536 with a logistic mixture.
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
    class_names: list[str] | None = None  # of the classes of its labels, by their numbers; kept by `save`

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
            self.condition.prepare(self.shape, levels, inputs == "embedding")
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
    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple[ModelScanner, Tensor | None]]:
        """For each pass the model that scans it, and that model's encoded condition: `nextpixel.scan.protocols.Passes`."""

    def forward(self, x: Tensor, cond: Any = None, kept: Tensor | None = None) -> Tensor:
        """Integers x (B, C, H, W) to params (B, P, H, W): what stands at (i, j) depends on earlier places only.

        `kept`, bool (B,): which images keep their condition; the others are unconditional, by default none.
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

    def log_prob(self, x: Tensor, cond: Any = None, guidance: float = 1.0, known: Tensor | None = None) -> Tensor:
        r"""log p(x) of images in nats: x (B, C, H, W) integers give (B,); with `known`, of their unknown symbols given the known.

        .. math:: \log p(x_{\text{unknown}} \mid x_{\text{known}})
            = \sum_{i \text{ unknown}} \log p(x_i \mid x_{\text{earlier}}, h(x_{\text{known}}))

        which is the distribution that `complete` draws from. h is there where the model's condition is, or has a part, `Known`;
        without it a known symbol counts for what comes after it alone.

        Args:
            x: the images, a tensor or an array of numpy, as wherever images, masks or conditions are given.
            cond: the condition, for one image or for all.
            guidance: s, the exact distribution that `sample` draws from with this guidance; 1 is the model itself.
            known: bool, broadcastable to x: the symbols that are given; by default none.

        Raises:
            InputError: x is not integer, has other channels, or symbols outside 0..levels-1; or `cond`, `guidance` or `known` do
                not fit.

        Example:
            >>> import nextpixel
            >>> model = nextpixel.GatedPixelCNN(shape=(1, 8, 8), levels=2, features=8, blocks=2)
            >>> model.log_prob(torch.zeros(5, 1, 8, 8, dtype=torch.long)).shape
            torch.Size([5])
        """
        x = self.check_images(x)
        if known is not None:
            known = draw.as_mask(self, x, known)
            cond = draw.with_known(self, cond, x, known)
        if guidance != 1:
            return guided_log_prob(self, x, cond, guidance, known)
        if known is None:
            return self.likelihood.log_prob(self(x, cond), x).flatten(1).sum(1)
        return draw.of_unknown(self.likelihood.log_prob_each(self(x, cond), x), known)

    def sample(
        self,
        n: int,
        cond: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        method: Method | None = None,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw n images: (n, C, H, W), uint8 up to 256 levels and int64 above.

        Args:
            n: how many.
            cond: the condition, for one image or for all n.
            seed: of the noise; equal seeds give equal images, whatever the method.
            temperature: below 1 more likely images, above 1 more varied ones; 1 is the model itself.
            method: "cached" scans at the arithmetic of one forward pass, step by step, and "compiled" does the same as a
                program on all cores, or as graphs on a GPU (`nextpixel.compiled`); "naive" runs one forward pass for every
                place, and "fixed-point" draws all places at once until nothing changes (`nextpixel.scan.fixed_point`). By default
                "compiled" on a processor where `nextpixel.compiled.why_not` has no reason against it, and else "cached".
            size: (H, W), by default that of the training images.
            progress: called with (rows finished, rows) after each row, or after each sweep; `scan_rows` gives their number.
            guidance: s, draws each symbol from p(. | earlier, h)^s p(. | earlier)^(1 - s), renormalised over the symbols
                (`likelihoods.Guided`), before the temperature: 1 is the model, 0 the unconditional model, which needs no
                `cond`; above 1 images are more typical of their condition. Other values scan every image twice, side by side.

        Raises:
            InputError: n, temperature, guidance, method or size make no sense, the condition is missing or superfluous, or the
                model's weights are not finite, or the numbers that it computes from them.
        """
        x = draw.blank(self, n, size)
        return draw.fill(self, x, None, 1, cond, seed, temperature, method, progress, guidance)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        n: int = 1,
        cond: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        method: Method | Literal["smc"] | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
        particles: int = monte_carlo.PARTICLES,
    ) -> Tensor:
        """Draw the unknown places of images; known places stay as they are.

        A model whose condition is `Known`, or has it as a part, draws each place from everything that is known and what has been
        drawn before. Any other draws it from what stands *before* it in the model's `order`: known symbols after it are kept, but
        have no effect, unless the method is "smc".

        Args:
            x: (B, C, H, W) integers; symbols at unknown places are not read.
            known: bool, broadcastable to x.
            n: completions per image; those of image b are rows b * n ... b * n + n - 1 of the result.
            cond, seed, temperature, method, progress, guidance: as for `sample`; `cond` is for the B images. The method "smc"
                draws from the joint distribution by sequential Monte Carlo (`nextpixel.sampling.particles`, which also tells its
                weights), so that any model sees all that is known; without guidance, and at temperature 1.
            particles: how many, for "smc": the cost is so many scans.

        Returns:
            (B * n, C, H, W), uint8 up to 256 levels and int64 above.

        Raises:
            InputError: as `sample` and `log_prob`, or `known` is not a bool mask that fits x.
        """
        if method == "smc":
            if guidance != 1 or temperature != 1:
                raise InputError(f"method 'smc' draws at guidance 1 and temperature 1, not {guidance} and {temperature}")
            return monte_carlo.complete(self, x, known, n, particles, cond, seed, progress)
        x, known = draw.partly_known(self, x, known)
        return draw.fill(self, x, known, n, cond, seed, temperature, method, progress, guidance)

    def scan_rows(self, n: int, size: tuple[int, int] | None = None) -> int:
        """The rows of n images that `sample` counts in its progress: of each pass over every group scanned together."""
        return draw.rows_of(self, n, self.check_size(size)[0])

    def interpolate(
        self,
        a: Any,
        b: Any,
        steps: int = 8,
        n: int = 4,
        seed: int = 0,
        path: interpolate.Path = "linear",
        temperature: float = 1.0,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        r"""Draw n rows of images while the encoded condition h moves from that of `a` to that of `b`: (n, steps, C, H, W).

        .. math:: h_t = (1 - t) h_a + t h_b
            \qquad \text{or} \qquad
            h_t = \big((1 - t) |h_a| + t |h_b|\big) \frac{\sin((1 - t) \theta) u_a + \sin(t \theta) u_b}{\sin \theta}

        for t = 0 ... 1 in equal steps, with u = h / |h| and the angle θ between them. Noise is held fixed along a row, so a row
        is one image that changes with its condition alone, and its ends are those of `sample` with the same seed and guidance.

        Args:
            a, b: conditions as `sample` takes them, each for one image or for all n rows.
            steps: images per row with both ends, at least 2.
            n: rows, each with noise of its own.
            seed: of the noise.
            path: "linear", or "spherical": on the great circle, the norm changing linearly. All of an image's h, its maps
                included, is one vector. Parallel vectors span no circle, and only the norm changes between them.
            temperature, size: as for `sample`.
            progress: as for `sample`, of n * steps images.
            guidance: as for `sample`: the distribution of each image lies between, or beyond, that under its own h and the
                unconditional one. At 0, which depends on no condition, all images of a row are one.

        Returns:
            uint8 up to 256 levels and int64 above.

        Raises:
            InputError: as `sample`; steps below 2; an unknown path; or a spherical one from or to a zero vector, which has no
                direction, or between opposite vectors, which lie on every great circle.

        Example:
            >>> import nextpixel
            >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=2, features=8, blocks=1, condition=nextpixel.Labels(10))
            >>> model.interpolate(3, 8, steps=5, n=2, path="spherical").shape
            torch.Size([2, 5, 1, 8, 8])
        """
        return interpolate.interpolate(self, a, b, steps, n, seed, path, temperature, size, progress, guidance)

    def bits_per_dim(self, x: Tensor, cond: Any = None, guidance: float = 1.0) -> Tensor:
        """-log2 p(x) divided by the image's C * H * W numbers, (B,)."""
        return -self.log_prob(x, cond, guidance) / (math.prod(as_tensor(x, "images").shape[1:]) * math.log(2))

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Data-dependent initialisation from images (B, C, H, W), before the first training step, in the papers that have one.

        Raises:
            InputError: as `log_prob`.
        """
        self.check_images(x)

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
        if cond is None and self.condition.asks:
            raise InputError(f"this model needs a condition ({self.condition.config}), but none was given")
        h = self.condition(cond, batch, height, width)
        return h if kept is None else torch.where(kept[:, None, None, None], h, 0)

    def check_images(self, x: Any) -> Tensor:
        """x, a tensor or an array of numpy, as int64 on the model's device.

        Raises:
            InputError: not integers (B, C, H, W) of symbols 0..levels-1 with this model's channels.
        """
        x = as_tensor(x, "images")
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


class RasterModel(AutoregressiveModel, Scanner):
    """A model that scans itself, in one pass in raster order.

    A new architecture is one file with a subclass that defines `network`, and `start`, `begin_row` and `step` as
    `nextpixel.scan.protocols.Scanner` states them; a class that lacks one of them cannot be constructed.
    """

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple["RasterModel", Tensor | None]]:
        yield self, h


def _plain(value: Any) -> Any:
    if isinstance(value, Likelihood):
        return value.name
    if isinstance(value, Condition):
        return value.config
    return list(value) if isinstance(value, tuple) else copy.deepcopy(value)
