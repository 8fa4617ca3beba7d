"""What every condition offers, the registry of all kinds, and a `cond` from data, from a default or from a config.

A condition declares what the rest of the library reads of it: where its `cond` comes from on the command line, whether it has
places, how the `cond` of many images is cut. So a new kind is one file with a subclass, and a line in `nextpixel.conditions`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nextpixel.errors import InputError

Source = Literal["label", "picture", "embedding"]


class Condition(nn.Module):
    """What every condition offers: `features` maps h, made from `cond`, and a `config` that `make_condition` reads back.

    Args:
        given: numbers of one `cond` (classes, dimensions, channels), which are "features" in a model's config.json.

    Attributes:
        features: F, of h.
        entries: of its config, besides the name: arguments of its constructor.
        source: what its `cond` is made of on the command line: a class ("label", which archives store), a picture, or the
            embedding of a picture; None where only Python can give it.
        batched: how many dimensions a `cond` has that holds an entry for each image; with fewer or more it is one for all.
        places: whether h may differ from place to place.
        sees_image: whether an image's `cond` in training is the image itself.
        asks: whether its `cond` must be given; `Known`, whose may be left out, is filled in by `join`.

    Raises:
        InputError: a size below 1.
    """

    name: ClassVar[str]
    entries: ClassVar[tuple[str, ...]] = ("features",)
    source: ClassVar[Source | None] = None
    batched: ClassVar[tuple[int, ...]] = ()
    places: bool = False
    sees_image: bool = False
    asks: bool = True
    features: int

    def __init__(self, given: int) -> None:
        super().__init__()
        self.given = self.features = positive(self.name, "features", given)
        # Carries the module's dtype and device, which a condition without weights has nowhere else.
        self.register_buffer("one", torch.ones(()), persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        """Name and sizes, for a model's config.json."""
        return {"name": self.name, "features": self.given}

    @classmethod
    def from_config(cls, features: Any = None, **settings: Any) -> "Condition":
        """The condition of a `config`, given as keywords without its name."""
        return cls(features, **settings)

    @abstractmethod
    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        """h for a batch of images of this size, (B, features, H or 1, W or 1).

        Raises:
            InputError: `cond` is of another kind, size or range than the condition takes.
        """

    def prepare(self, shape: tuple[int, int, int], levels: int, codes: bool) -> None:
        """The model calls it with the shape and levels of its images, and whether they are codes; few conditions depend on them.

        Raises:
            InputError: it belongs to a model of other images already.
        """

    def of_images(self, x: Tensor, labels: Tensor | None) -> Any:
        """The `cond` of labelled images in training and evaluation: by default the labels.

        Raises:
            InputError: it needs labels, and there are none.
        """
        if labels is None:
            raise InputError("the model needs a condition, but the data have no labels")
        return labels

    def default(self, number: int) -> Any:
        """The `cond` of so many drawn images if the user gives none: classes 0, 1, 2, ... in turn.

        Raises:
            InputError: it is made of no label.
        """
        if self.source == "label":
            return torch.arange(number) % self.given
        if any(part.source is not None and part.source != "label" for part in self.each()):
            raise InputError("the model draws images like a given one: name one with --like, or in Python, model.sample(n, cond)")
        raise InputError(f"the model's condition is {self.name}, not labels: give it in Python, model.sample(n, cond)")

    # --- a condition may have parts: see `Combination` ---------------------------------------------------------------------

    def each(self) -> Iterator["Condition"]:
        """Itself, or its parts and theirs."""
        yield self

    def build(self, cond_of_part: Callable[["Condition"], Any]) -> Any:
        """A `cond` from those of `each` part."""
        return cond_of_part(self)

    def as_tensors(self, cond: Any) -> Any:
        """Arrays as tensors; what is none stays as it is, and `forward` refuses it."""
        try:
            return cond if cond is None else as_tensor(cond)
        except InputError:
            return cond

    def length(self, cond: Any) -> int | None:
        """For how many images a `cond` of tensors is; None where it is one for all, -1 where its parts do not agree."""
        return len(cond) if isinstance(cond, Tensor) and cond.dim() in self.batched else None

    def select(self, cond: Any, images: slice) -> Any:
        """The `cond` of some of the images."""
        return cond if self.length(cond) is None else cond[images]

    def join(self, cond: Any, given: Tensor) -> Any:
        """The `cond`, filled in where it lacks what is known of the images (`nextpixel.conditions.known.given_symbols`)."""
        return cond


CONDITIONS: dict[str, type[Condition]] = {}  # by name; `nextpixel.conditions` lists them


def make_condition(config: "Condition | dict | None") -> Condition | None:
    """A condition from its config (or itself, or None).

    Raises:
        InputError: an unknown name, a setting that the condition does not have, or a size below 1.

    Example:
        >>> import nextpixel.conditions
        >>> make_condition({"name": "spatial-map", "features": 2, "factor": [4, 7], "maps": 16}).features
        16
    """
    if config is None or isinstance(config, Condition):
        return config
    if not isinstance(config, dict):
        raise InputError(f"a condition must be a Condition or its config, not {config!r}")
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in CONDITIONS:
        raise InputError(f"unknown condition {name!r}: expected one of {', '.join(CONDITIONS)}")
    kind = CONDITIONS[name]
    for key in settings:
        if key not in kind.entries:
            raise InputError(f"condition {name} has no {key}: expected some of {', '.join(kind.entries)}")
    return kind.from_config(**settings)


def cond_of(condition: Condition | None, x: Tensor, labels: Tensor | None) -> Any:
    """The `cond` of images (B, C, H, W) with these labels, (B,) or None: None for an unconditional model.

    Raises:
        InputError: the condition needs labels, and there are none.

    Example:
        >>> from nextpixel.conditions import Labels
        >>> cond_of(Labels(10), torch.zeros(2, 1, 8, 8, dtype=torch.long), torch.tensor([3, 7]))
        tensor([3, 7])
    """
    return None if condition is None else condition.of_images(x, labels)


def encoder_of(condition: Condition | None) -> Condition | None:
    """The part of a condition that encodes the image itself: a model that has one sees the image that it scores.

    Example:
        >>> from nextpixel.conditions import Combination, Encoded, Labels
        >>> encoder_of(Combination(Labels(10), Encoded(2))).given
        2
    """
    return None if condition is None else next((part for part in condition.each() if part.sees_image), None)


def sees_known(condition: Condition | None) -> bool:
    """Whether a condition, or a part of it, is what is known of an image.

    Example:
        >>> from nextpixel.conditions import Combination, Known, Labels
        >>> sees_known(Combination(Labels(10), Known(8))), sees_known(Labels(10))
        (True, False)
    """
    return condition is not None and any(not part.asks for part in condition.each())


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
    condition = model.condition
    if condition is None:
        return None
    if images is None or condition.source == "label":
        return condition.default(number)
    return cond_of(condition, *images.__getitems__([k * len(images) // number for k in range(number)]))


def positive(kind: str, what: str, size: Any) -> int:
    """A size of a condition, checked.

    Raises:
        InputError: no integer, or below 1.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{kind} needs {what} >= 1, not {size!r}")
    return size


def as_tensor(cond: Any, what: str = "cond") -> Tensor:
    """What the user gave, a tensor, an array of numpy or numbers, as a tensor.

    Raises:
        InputError: it is not made of numbers.
    """
    if isinstance(cond, Tensor):
        return cond
    try:
        if isinstance(cond, np.ndarray | np.generic):
            # torch shares no memory that is reversed or read-only, and computes little with unsigned numbers of 16 bits.
            kind = np.int64 if cond.dtype.kind == "u" and cond.dtype.itemsize > 1 else cond.dtype.newbyteorder("=")
            return torch.from_numpy(np.array(cond, dtype=kind, order="C"))
        return torch.as_tensor(cond)
    except (TypeError, ValueError, RuntimeError):
        given = f"an array of {cond.dtype}" if isinstance(cond, np.ndarray) else type(cond).__name__
        raise InputError(f"{what} must be numbers, not {given}") from None
