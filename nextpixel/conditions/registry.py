"""All kinds of conditions by name, several at once, and a condition from its config."""

from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.conditions.base import Condition
from nextpixel.conditions.encoded import Encoded
from nextpixel.conditions.kinds import Labels, SpatialMap, Vector
from nextpixel.errors import InputError


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

    def prepare(self, shape: tuple[int, int, int], levels: int) -> None:
        for part in self.parts:
            part.prepare(shape, levels)

    def of_images(self, x: Tensor, labels: Tensor | tuple | None) -> tuple:
        # Data may come with something for each part; else all parts get the same labels.
        each = labels if isinstance(labels, tuple) else (labels,) * len(self.parts)
        return tuple(part.of_images(x, of_part) for part, of_part in zip(self.parts, each, strict=True))

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


CONDITIONS: dict[str, type[Condition]] = {kind.name: kind for kind in (Labels, Vector, SpatialMap, Encoded, Combination)}


def make_condition(config: "Condition | dict | None") -> Condition | None:
    """A condition from its config (or itself, or None).

    Raises:
        InputError: an unknown name, a setting that the condition does not have, or a size below 1.

    Example:
        >>> make_condition({"name": "spatial-map", "features": 2, "factor": [4, 7], "maps": 16}).features
        16
    """
    return None if config is None else _made(config)


def cond_of(condition: Condition | None, x: Tensor, labels: Tensor | None) -> Any:
    """The `cond` of images (B, C, H, W) with these labels, (B,) or None: None for an unconditional model.

    Raises:
        InputError: the condition needs labels, and there are none.

    Example:
        >>> cond_of(Labels(10), torch.zeros(2, 1, 8, 8, dtype=torch.long), torch.tensor([3, 7]))
        tensor([3, 7])
    """
    return None if condition is None else condition.of_images(x, labels)


def encoder_of(condition: Condition | None) -> Encoded | None:
    """The encoder in a condition, or in one of its parts: a model that has one sees the image that it scores.

    Example:
        >>> encoder_of(Combination(Labels(10), Encoded(2))).given
        2
    """
    return next((part for part in (condition or nn.Module()).modules() if isinstance(part, Encoded)), None)


def default_cond(model: Any, number: int, images: Any | None = None) -> Any:
    """Labels 0, 1, 2, ... in turn for a class-conditional model, None for an unconditional one, else what goes with images.

    Args:
        model: with a `condition`.
        number: images that are to be drawn.
        images: a split (`nextpixel.data.images.Images`), over which the conditions are spread: it may be sorted by class, and one
            may come several times.

    Raises:
        InputError: the model depends on images, or on their vectors, and none are given.
    """
    if model.condition is None:
        return None
    if isinstance(model.condition, Labels):
        return torch.arange(number) % model.condition.features
    if images is not None:
        return cond_of(model.condition, *images.__getitems__([k * len(images) // number for k in range(number)]))
    if encoder_of(model.condition) is not None or isinstance(model.condition, Vector):
        raise InputError("the model draws images like a given one: name one with --like, or in Python, model.sample(n, cond)")
    raise InputError(f"the model's condition is {model.condition.name}, not labels: give it in Python, model.sample(n, cond)")


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
