"""What every condition offers, whatever its kind."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextpixel.errors import InputError


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
        self.given = self.features = positive(self.name, "features", given)
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

    def prepare(self, shape: tuple[int, int, int], levels: int) -> None:
        """Told by the model that it belongs to what images this model is for; most conditions need not know.

        Raises:
            InputError: it belongs to a model of other images already.
        """

    def of_images(self, x: Tensor, labels: Tensor | None) -> Any:
        """The `cond` of labelled images, as training and evaluation give it: the labels, unless a condition says otherwise.

        Raises:
            InputError: it needs labels, and there are none.
        """
        if labels is None:
            raise InputError("the model needs a condition, but the data have no labels")
        return labels


def positive(kind: str, what: str, size: Any) -> int:
    """A size of a condition, checked.

    Raises:
        InputError: no integer, or below 1.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"{kind} needs {what} >= 1, not {size!r}")
    return size


def as_tensor(cond: Any) -> Tensor:
    """What the user gave as a tensor.

    Raises:
        InputError: it is not made of numbers.
    """
    try:
        return torch.as_tensor(cond)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"cond must be numbers, not {type(cond).__name__}") from None
