"""Conditions: what an image may depend on besides its own pixels, as maps that every layer adds after a linear map V.

.. math:: y = W * x + V h \\qquad \\text{(arXiv:1606.05328, equations 3 to 5)}

A condition turns the user's `cond` into h, (B, features, H or 1, W or 1). Layers hold V, an unmasked 1x1 convolution; a scan
computes V h once. What a condition does not do yet: bring a smaller map to the image's size.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import InputError


class Condition(nn.Module):
    """What every condition offers: `features` maps h, made from `cond`, and a `config` that `make_condition` reads back."""

    name: str
    features: int

    @property
    def config(self) -> dict[str, str | int]:
        """Name and size, as they stand in a model's config.json."""
        return {"name": self.name, "features": self.features}

    @abstractmethod
    def forward(self, cond: Tensor | int | list, batch: int, height: int, width: int) -> Tensor:
        """h for a batch of images of this size, (B, features, H or 1, W or 1).

        Raises:
            InputError: `cond` is of another kind, size or range than the condition wants.
        """


class Labels(Condition):
    """A class label 0..n-1: h is its one-hot vector, so that V h is a bias per class in every layer.

    Example:
        >>> Labels(10)(3, batch=2, height=8, width=8).shape
        torch.Size([2, 10, 1, 1])
    """

    name = "labels"

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = n
        # Carries the module's dtype and device, which a condition without weights has nowhere else.
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, cond: Tensor | int | list, batch: int, height: int, width: int) -> Tensor:
        labels = torch.as_tensor(cond, device=self.one.device)
        if labels.is_floating_point() or labels.shape not in ((), (batch,)):
            raise InputError(f"cond must be one label or {batch} integer labels, not {labels.dtype} of {tuple(labels.shape)}")
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < self.features):
            raise InputError(f"labels must be from 0 to {self.features - 1}, not {int(labels.min())} to {int(labels.max())}")
        return F.one_hot(labels.long().expand(batch), self.features).to(self.one)[:, :, None, None]


class Vector(Condition):
    """A vector of `dim` numbers, such as an embedding: h is the vector itself.

    Example:
        >>> Vector(64)(torch.zeros(2, 64), batch=2, height=8, width=8).shape
        torch.Size([2, 64, 1, 1])
    """

    name = "vector"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = dim
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, cond: Tensor | int | list, batch: int, height: int, width: int) -> Tensor:
        vector = torch.as_tensor(cond).to(self.one)
        if vector.shape not in ((self.features,), (batch, self.features)):
            raise InputError(f"cond must be ({self.features},) or ({batch}, {self.features}), not {tuple(vector.shape)}")
        return vector.expand(batch, -1)[:, :, None, None]


class SpatialMap(Condition):
    """A map of the image's size with `channels` numbers per place: h is the map itself (location-dependent conditioning).

    Example:
        >>> SpatialMap(2)(torch.zeros(3, 2, 8, 9), batch=3, height=8, width=9).shape
        torch.Size([3, 2, 8, 9])
    """

    name = "spatial-map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = channels
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, cond: Tensor | int | list, batch: int, height: int, width: int) -> Tensor:
        h = torch.as_tensor(cond).to(self.one)
        expected = (self.features, height, width)
        if h.shape not in (expected, (batch, *expected)):
            raise InputError(f"cond must be {expected} or {(batch, *expected)}, not {tuple(h.shape)}")
        return h.expand(batch, -1, -1, -1)


CONDITIONS: dict[str, type[Condition]] = {kind.name: kind for kind in (Labels, Vector, SpatialMap)}


def make_condition(config: "Condition | dict | None") -> Condition | None:
    """A condition from its config (or itself, or None).

    Raises:
        InputError: an unknown name or a size below 1.
    """
    if config is None or isinstance(config, Condition):
        return config
    if not isinstance(config, dict):
        raise InputError(f"a condition must be a Condition or its config, not {config!r}")
    if config.get("name") not in CONDITIONS:
        raise InputError(f"unknown condition {config.get('name')!r}: expected one of {', '.join(CONDITIONS)}")
    if not isinstance(config.get("features"), int) or config["features"] < 1:
        raise InputError(f"a condition needs features >= 1, not {config.get('features')!r}")
    return CONDITIONS[config["name"]](config["features"])
