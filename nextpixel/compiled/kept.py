"""Programs are kept from one call to the next: a model that draws again as it did, with the same weights, records nothing.

A few are kept, of all models together, and the oldest go first; none outlives its model. Whether weights are the same is told by
a digest of their values, wherever they lie.
"""

import threading
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from nextpixel.compiled.digest import digest
from nextpixel.compiled.request import Request
from nextpixel.compiled.rows import Rows
from nextpixel.drawing import check_weights

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

# What is kept at most: of one model, of all, and of how many bytes together.
OF_A_MODEL, OF_ALL, BYTES = 4, 16, 2**28

_lock = threading.Lock()
_kept: "WeakKeyDictionary[AutoregressiveModel, list[Kept]]" = WeakKeyDictionary()
_calls = count()


class Kept:
    """The programs of a call, one for each core, and what they were recorded for."""

    def __init__(self, key: Any, rows: list[Rows]) -> None:
        self.key, self.rows, self.last = key, rows, 0
        self.nbytes = sum(of_core.nbytes for of_core in rows)


def take(owner: "AutoregressiveModel", model: "AutoregressiveModel", request: Request, cores: int, weights: Any) -> Kept:
    """Programs for the unconditional images of a request, for each core; they belong to the caller until `put_back`.

    Args:
        owner: whose programs they are.
        model: the owner itself, or what draws for it.
        request: the images of a piece.
        cores: how many pieces are scanned at once.
        weights: what tells the model's weights from others.
    """
    key = tuple(request.x.shape), request.known is not None, request.law, request.temperature, cores, weights
    with _lock:
        of_model = _kept.get(owner, [])
        for kept in of_model:
            if kept.key == key:
                of_model.remove(kept)
                return kept
    ((part, _),) = model.parts(request.x)
    first = Rows(part, request)
    return Kept(key, [first, *(first.copy() for _ in range(cores - 1))])


def put_back(owner: "AutoregressiveModel", kept: Kept) -> None:
    """For the next call, unless there are too many."""
    with _lock:
        kept.last = next(_calls)
        of_model = _kept.setdefault(owner, [])
        of_model.append(kept)
        del of_model[:-OF_A_MODEL]
        newest = sorted((k for of_one in _kept.values() for k in of_one), key=lambda k: -k.last)
        while len(newest) > OF_ALL or sum(k.nbytes for k in newest) > BYTES:
            oldest = newest.pop()
            for of_one in _kept.values():
                if oldest in of_one:
                    of_one.remove(oldest)


def forget() -> None:
    """Keep nothing of what has been kept so far."""
    with _lock:
        _kept.clear()


def identity(model: nn.Module) -> Any:
    """What tells a model's weights from others, wherever they lie.

    Raises:
        InputError: they are not finite.
    """
    weights = [*model.parameters(), *model.buffers()]
    *bits, finite = digest(weights)
    if not finite:
        check_weights(model)
    return (*bits, *((tensor.dtype, tensor.shape) for tensor in weights))
