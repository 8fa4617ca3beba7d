"""Programs are kept from one call to the next: a model that draws again as it did, with the same weights, records nothing."""

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nextpixel.compiled.request import Request
from nextpixel.compiled.rows import Rows

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

_lock = threading.Lock()
_kept: "WeakKeyDictionary[AutoregressiveModel, Kept]" = WeakKeyDictionary()


class Kept:
    """The programs of a model's last call, and what they were recorded from."""

    def __init__(self, model: "AutoregressiveModel", key: Any, rows: list[Rows]) -> None:
        self.key, self.rows = key, rows
        self.weights = [tensor.clone() for tensor in _weights(model)]

    def fits(self, model: "AutoregressiveModel", key: Any) -> bool:
        """Whether the same is asked of the same numbers, wherever they come from: all are compared."""
        weights = _weights(model)
        same = self.key == key and len(weights) == len(self.weights)
        return same and all(_equal(a, b) for a, b in zip(weights, self.weights, strict=True))


def take(model: "AutoregressiveModel", request: Request, cores: int) -> Kept:
    """Programs for the unconditional images of a request, for each core; they belong to the caller until `put_back`."""
    key = (tuple(request.x.shape), request.known is not None, request.law, request.temperature, cores)
    with _lock:
        kept = _kept.pop(model, None)
    if kept is None or not kept.fits(model, key):
        ((part, _),) = model.parts(request.x)
        first = Rows(part, request)
        kept = Kept(model, key, [first, *(first.copy() for _ in range(cores - 1))])
    return kept


def put_back(model: "AutoregressiveModel", kept: Kept) -> None:
    """For the next call."""
    with _lock:
        _kept[model] = kept


def _weights(model: "AutoregressiveModel") -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
