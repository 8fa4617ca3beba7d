"""Conditions that are given as numbers (labels, vectors, maps), and several conditions at once."""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.conditions.base import Condition, as_tensor, make_condition, positive
from nextpixel.errors import InputError
from nextpixel.layers.conditioning import Upsampler

DEFAULT_MAPS = 32  # of an upsampled map; the paper gives no sizes


class Labels(Condition):
    """A class label 0..n-1: h is its one-hot vector, so that V h is a bias per class in every layer.

    Raises:
        InputError: n below 1.

    Example:
        >>> Labels(10)(3, batch=2, height=8, width=8).shape
        torch.Size([2, 10, 1, 1])
    """

    name = "labels"
    source = "label"
    batched = (1,)

    def __init__(self, n: int) -> None:
        super().__init__(n)

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        labels = as_tensor(cond).to(self.one.device)
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
    source = "embedding"
    batched = (2,)

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        vector = as_tensor(cond).to(self.one)
        if vector.shape not in ((self.features,), (batch, self.features)):
            raise InputError(f"cond must be ({self.features},) or ({batch}, {self.features}), not {tuple(vector.shape)}")
        return vector.expand(batch, -1)[:, :, None, None]


class SpatialMap(Condition):
    r"""A map of numbers per place: h differs from place to place of the image (arXiv:1606.05328, section 2.3).

    .. math:: h = s \quad \text{or, of a smaller map,} \quad h = m(s)

    Without a factor the map s has the image's size and is used as it is. With one, each of its places covers `factor` rows
    and columns of the image, and m is a network of transposed convolutions (`layers.conditioning.Upsampler`, trained with the
    model), one for each prime factor, the largest first: 28 is 7, 2, 2. The map's size follows the image's, rounded up, so any
    image size will do. A vector is the case of one place, factor = (H, W); at any size it may be given as a vector, which then
    is repeated at every place of the map.

    Args:
        channels: numbers per place of the map that is given.
        factor: rows and columns of the image for each place of the map; one number for both.
        maps: maps that the network makes of it (default: 32). With a factor of 1 it adds the network all the same.

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
    entries = ("features", "factor", "maps")
    batched = (2, 4)
    places = True

    def __init__(self, channels: int, factor: int | tuple[int, int] = 1, maps: int | None = None) -> None:
        super().__init__(channels)
        factors = (factor, factor) if isinstance(factor, int) else tuple(factor) if isinstance(factor, list | tuple) else ()
        if len(factors) != 2:
            raise InputError(f"{self.name} needs a factor of one or two numbers, not {factor!r}")
        self.factor = tuple(positive(self.name, "factor", f) for f in factors)
        self.upsampler = None
        if self.factor != (1, 1) or maps is not None:
            self.features = positive(self.name, "maps", DEFAULT_MAPS if maps is None else maps)
            steps = list(zip_longest(*map(_prime_factors, self.factor), fillvalue=1)) or [(1, 1)]
            self.upsampler = Upsampler(channels, self.features, *steps)

    @property
    def config(self) -> dict[str, Any]:
        network = {} if self.upsampler is None else {"factor": list(self.factor), "maps": self.features}
        return {**super().config, **network}

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        h = as_tensor(cond).to(self.one)
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

    A part without places is repeated at every place where another part has places. A part that does not ask (`Known`) may be
    left out of the tuple; what then is left of two parts is given by itself: Combination(Labels(10), Known()) takes a label.

    Args:
        parts: conditions, or configs of them.

    Raises:
        InputError: no parts, two of `Known`, or what `make_condition` refuses in one of them.

    Example:
        >>> condition = Combination(Labels(10), SpatialMap(2))
        >>> condition((3, torch.zeros(5, 2, 8, 9)), batch=5, height=8, width=9).shape
        torch.Size([5, 12, 8, 9])
    """

    name = "combination"
    entries = ("parts",)

    def __init__(self, *parts: "Condition | dict") -> None:
        if not parts:
            raise InputError("a combination needs at least one condition, but none was given")
        made = []
        for k, part in enumerate(parts):
            try:
                if part is None:
                    raise InputError("a condition must be a Condition or its config, not None")
                made.append(make_condition(part))
            except InputError as error:
                raise InputError(f"part {k} of the combination: {error}") from error
        super().__init__(sum(part.features for part in made))
        self.parts = nn.ModuleList(made)
        self.places = any(part.places for part in made)
        if sum(not part.asks for part in self.each()) > 1:
            raise InputError("a combination takes one condition on what is known, not several")
        self.asks = any(part.asks for part in made)
        if self._alone is not None:
            self.source, self.given = self._alone.source, self._alone.given

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.config for part in self.parts]}

    @classmethod
    def from_config(cls, parts: Any = None) -> "Combination":
        if not isinstance(parts, list | tuple):
            raise InputError(f"a combination needs a list of parts, not {parts!r}")
        return cls(*parts)

    @property
    def _asking(self) -> list[Condition]:
        return [part for part in self.parts if part.asks]

    @property
    def _alone(self) -> Condition | None:
        """The one part that asks, beside others that do not: its `cond` stands for the whole."""
        return self._asking[0] if len(self._asking) == 1 < len(self.parts) else None

    def prepare(self, shape: tuple[int, int, int], levels: int, codes: bool) -> None:
        for part in self.parts:
            part.prepare(shape, levels, codes)

    def of_images(self, x: Tensor, labels: Tensor | tuple | None) -> Any:
        if self._alone is not None:
            return self._alone.of_images(x, labels)
        # Data may come with something for each part; else all parts get the same labels.
        each = labels if isinstance(labels, tuple) else (labels,) * len(self.parts)
        return tuple(part.of_images(x, of_part) for part, of_part in zip(self.parts, each, strict=True))

    def default(self, number: int) -> Any:
        return super().default(number) if self._alone is None else self._alone.default(number)

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        full = self._full(cond)
        if full is None:
            names = ", ".join(part.name for part in self.parts)
            given = len(cond) if isinstance(cond, list | tuple) else type(cond).__name__
            raise InputError(f"cond must be a tuple of {len(self.parts)} parts ({names}), not {given}")
        hs = []
        for k, (part, of_part) in enumerate(zip(self.parts, full, strict=True)):
            try:
                hs.append(part(of_part, batch, height, width))
            except InputError as error:
                raise InputError(f"part {k} of cond ({part.name}): {error}") from error
        size = torch.broadcast_shapes(*(h.shape[2:] for h in hs))
        return torch.cat([h.expand(-1, -1, *size) for h in hs], 1)

    def each(self) -> Iterator[Condition]:
        for part in self.parts:
            yield from part.each()

    def build(self, cond_of_part: Callable[[Condition], Any]) -> Any:
        made = tuple(part.build(cond_of_part) for part in self._asking)
        return made if self._alone is None else made[0]

    def as_tensors(self, cond: Any) -> Any:
        if self._for_one(cond):
            return self._alone.as_tensors(cond)
        full = self._full(cond)
        return cond if full is None else tuple(part.as_tensors(c) for part, c in zip(self.parts, full, strict=True))

    def length(self, cond: Any) -> int | None:
        if self._for_one(cond):
            return self._alone.length(cond)
        lengths = {part.length(c) for part, c in zip(self.parts, self._full(cond) or (), strict=False)} - {None}
        return next(iter(lengths), None) if len(lengths) < 2 else -1

    def select(self, cond: Any, images: slice) -> Any:
        if self._for_one(cond):
            return self._alone.select(cond, images)
        full = self._full(cond)
        return cond if full is None else tuple(part.select(c, images) for part, c in zip(self.parts, full, strict=True))

    def join(self, cond: Any, given: Tensor | None) -> Any:
        full = self._full(cond)
        return cond if full is None else tuple(part.join(c, given) for part, c in zip(self.parts, full, strict=True))

    def _for_one(self, cond: Any) -> bool:
        """Whether a `cond` is that of the one part that asks."""
        return self._alone is not None and not (isinstance(cond, tuple) and len(cond) == len(self.parts))

    def _full(self, cond: Any) -> list | tuple | None:
        """What a `cond` has for each part; None where it fits no form."""
        if self._for_one(cond):
            cond = (cond,)
        elif isinstance(cond, list | tuple) and len(cond) == len(self.parts):
            return cond
        asking = sum(part.asks for part in self.parts)
        if not isinstance(cond, list | tuple) or len(cond) != asking or asking == len(self.parts):
            return None
        rest = iter(cond)
        return tuple(next(rest) if part.asks else None for part in self.parts)


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
