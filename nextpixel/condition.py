"""Conditions: what an image may depend on besides its own pixels, as maps that every layer adds after a linear map V.

.. math:: y = W * x + V h \\qquad \\text{(arXiv:1606.05328, equations 3 to 5)}

A condition turns the user's `cond` into h, (B, features, H or 1, W or 1). Layers hold V, an unmasked 1x1 convolution; a scan
computes h and V h once. Where an image has lost its condition, in training or in the unconditional half of guidance, h is 0.
"""

from abc import abstractmethod
from itertools import zip_longest
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import InputError
from nextpixel.layers.upsampling import Upsampler

DEFAULT_MAPS = 32  # of an upsampled map; the paper gives no sizes


class Condition(nn.Module):
    """What every condition offers: `features` maps h, made from `cond`, and a `config` that `make_condition` reads back.

    Args:
        given: numbers of one `cond` (classes, dimensions, channels), which stand as "features" in a model's config.json.

    Raises:
        InputError: a size below 1.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()  # further entries of the config
    features: int

    def __init__(self, given: int) -> None:
        super().__init__()
        self.given = self.features = _positive(self.name, "features", given)
        # Carries the module's dtype and device, which a condition without weights has nowhere else.
        self.register_buffer("one", torch.ones(()), persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        """Name and sizes, as they stand in a model's config.json."""
        return {"name": self.name, "features": self.given}

    @abstractmethod
    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        """h for a batch of images of this size, (B, features, H or 1, W or 1).

        Raises:
            InputError: `cond` is of another kind, size or range than the condition wants.
        """


class Labels(Condition):
    """A class label 0..n-1: h is its one-hot vector, so that V h is a bias per class in every layer.

    Raises:
        InputError: n below 1.

    Example:
        >>> Labels(10)(3, batch=2, height=8, width=8).shape
        torch.Size([2, 10, 1, 1])
    """

    name = "labels"

    def __init__(self, n: int) -> None:
        super().__init__(n)

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        labels = _tensor(cond).to(self.one.device)
        kinds = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
        if kinds or labels.shape not in ((), (batch,)):
            raise InputError(f"cond must be one label or {batch} integer labels, not {labels.dtype} of {tuple(labels.shape)}")
        # A compiled training step would be cut in two by a look at the labels; those of a data set have been checked.
        compiling = torch.compiler.is_compiling()
        if not compiling and labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < self.features):
            raise InputError(f"labels must be from 0 to {self.features - 1}, not {int(labels.min())} to {int(labels.max())}")
        return F.one_hot(labels.long().expand(batch), self.features).to(self.one)[:, :, None, None]


class Vector(Condition):
    """A vector of `dim` numbers, such as an embedding: h is the vector itself.

    Raises:
        InputError: dim below 1.

    Example:
        >>> Vector(64)(torch.zeros(2, 64), batch=2, height=8, width=8).shape
        torch.Size([2, 64, 1, 1])
    """

    name = "vector"

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        vector = _tensor(cond).to(self.one)
        if vector.shape not in ((self.features,), (batch, self.features)):
            raise InputError(f"cond must be ({self.features},) or ({batch}, {self.features}), not {tuple(vector.shape)}")
        return vector.expand(batch, -1)[:, :, None, None]


class SpatialMap(Condition):
    r"""A map of numbers per place: h says at each place of the image what stands there (arXiv:1606.05328, section 2.3).

    .. math:: h = s \quad \text{or, of a smaller map,} \quad h = m(s)

    Without a factor the map s has the image's size and is used as it is. With one, each of its places stands for `factor` rows
    and columns of the image, and m is a network of transposed convolutions (`layers.upsampling.Upsampler`, trained with the
    model), one for each prime factor, the largest first: 28 is 7, 2, 2. The map's size follows the image's, rounded up, so any
    image size will do. A vector is the case of one place, factor = (H, W); at any size it may be given as a vector, which then
    stands at every place of the map.

    Args:
        channels: numbers per place of the map that is given.
        factor: rows and columns of the image for each place of the map; one number for both.
        maps: maps that the network makes of it (default: 32). With a factor of 1 it asks for the network all the same.

    Shapes:
        (channels, H / factor, W / factor), or B of these, or with a network (channels,) or (B, channels) -> (B, features, H, W).

    Raises:
        InputError: a size below 1.

    Example:
        >>> SpatialMap(2)(torch.zeros(3, 2, 8, 9), batch=3, height=8, width=9).shape
        torch.Size([3, 2, 8, 9])
        >>> SpatialMap(2, factor=4, maps=16)(torch.zeros(3, 2, 2, 3), batch=3, height=8, width=9).shape
        torch.Size([3, 16, 8, 9])
    """

    name = "spatial-map"
    settings = ("factor", "maps")

    def __init__(self, channels: int, factor: int | tuple[int, int] = 1, maps: int | None = None) -> None:
        super().__init__(channels)
        factors = (factor, factor) if isinstance(factor, int) else tuple(factor) if isinstance(factor, list | tuple) else ()
        if len(factors) != 2:
            raise InputError(f"{self.name} needs a factor of one or two numbers, not {factor!r}")
        self.factor = tuple(_positive(self.name, "factor", f) for f in factors)
        self.upsampler = None
        if self.factor != (1, 1) or maps is not None:
            self.features = _positive(self.name, "maps", DEFAULT_MAPS if maps is None else maps)
            steps = list(zip_longest(*map(_prime_factors, self.factor), fillvalue=1)) or [(1, 1)]
            self.upsampler = Upsampler(channels, self.features, *steps)

    @property
    def config(self) -> dict[str, Any]:
        network = {} if self.upsampler is None else {"factor": list(self.factor), "maps": self.features}
        return {**super().config, **network}

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        h = _tensor(cond).to(self.one)
        expected = (self.given, -(-height // self.factor[0]), -(-width // self.factor[1]))
        if self.upsampler is not None and h.shape in ((self.given,), (batch, self.given)):
            h = h[..., None, None].expand(*h.shape, *expected[1:])
        if h.shape not in (expected, (batch, *expected)):
            raise InputError(f"cond must be {expected} or {(batch, *expected)}, not {tuple(h.shape)}")
        h = h if h.dim() == 4 else h[None]  # one for all is upsampled once
        if self.upsampler is not None:
            h = self.upsampler(h, (height, width))
        return h.expand(batch, -1, -1, -1)


class Combination(Condition):
    """Several conditions at once: h is the concatenation of theirs, and `cond` a tuple of theirs in the same order.

    A part without places is repeated at every place where another part has places.

    Args:
        parts: conditions, or configs of them.

    Raises:
        InputError: no parts, or what `make_condition` refuses in one of them.

    Example:
        >>> condition = Combination(Labels(10), SpatialMap(2))
        >>> condition((3, torch.zeros(5, 2, 8, 9)), batch=5, height=8, width=9).shape
        torch.Size([5, 12, 8, 9])
    """

    name = "combination"

    def __init__(self, *parts: "Condition | dict") -> None:
        if not parts:
            raise InputError("a combination needs at least one condition, but none was given")
        made = []
        for k, part in enumerate(parts):
            try:
                made.append(_made(part))
            except InputError as error:
                raise InputError(f"part {k} of the combination: {error}") from error
        super().__init__(sum(part.features for part in made))
        self.parts = nn.ModuleList(made)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.config for part in self.parts]}

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        if not isinstance(cond, list | tuple) or len(cond) != len(self.parts):
            names = ", ".join(part.name for part in self.parts)
            given = len(cond) if isinstance(cond, list | tuple) else type(cond).__name__
            raise InputError(f"cond must be a tuple of {len(self.parts)} parts ({names}), not {given}")
        hs = []
        for k, (part, of_part) in enumerate(zip(self.parts, cond, strict=True)):
            try:
                hs.append(part(of_part, batch, height, width))
            except InputError as error:
                raise InputError(f"part {k} of cond ({part.name}): {error}") from error
        size = torch.broadcast_shapes(*(h.shape[2:] for h in hs))
        return torch.cat([h.expand(-1, -1, *size) for h in hs], 1)


CONDITIONS: dict[str, type[Condition]] = {kind.name: kind for kind in (Labels, Vector, SpatialMap, Combination)}


def make_condition(config: "Condition | dict | None") -> Condition | None:
    """A condition from its config (or itself, or None).

    Raises:
        InputError: an unknown name, a setting that the condition does not have, or a size below 1.

    Example:
        >>> make_condition({"name": "spatial-map", "features": 2, "factor": [4, 7], "maps": 16}).features
        16
    """
    return None if config is None else _made(config)


def _made(config: "Condition | dict") -> Condition:
    if isinstance(config, Condition):
        return config
    if not isinstance(config, dict):
        raise InputError(f"a condition must be a Condition or its config, not {config!r}")
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in CONDITIONS:
        raise InputError(f"unknown condition {name!r}: expected one of {', '.join(CONDITIONS)}")
    kind = CONDITIONS[name]
    takes = ("parts",) if kind is Combination else ("features", *kind.settings)
    for key in settings:
        if key not in takes:
            raise InputError(f"condition {name} has no {key}: expected some of {', '.join(takes)}")
    if kind is not Combination:
        return kind(settings.pop("features", None), **settings)
    parts = settings.get("parts")
    if not isinstance(parts, list | tuple):
        raise InputError(f"a combination needs a list of parts, not {parts!r}")
    return Combination(*parts)


def _positive(kind: str, what: str, size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{kind} needs {what} >= 1, not {size!r}")
    return size


def _tensor(cond: Any) -> Tensor:
    try:
        return torch.as_tensor(cond)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"cond must be numbers, not {type(cond).__name__}") from None


def _prime_factors(n: int) -> list[int]:
    """The largest first; none of 1."""
    found, prime = [], 2
    while n > 1:
        if n % prime:
            prime += 1
        else:
            found.insert(0, prime)
            n //= prime
    return found
