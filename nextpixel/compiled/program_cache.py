"""The program cache: a model that draws again as before, with the same weights, records nothing.

The cache holds a few entries of all models together, evicts the least recently used, and none outlives its model. A digest of the
weights' values, wherever they lie, shows whether they are the same, and whether all are finite, without a copy of them.
"""

import threading
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from nextpixel.compiled.memory import digest
from nextpixel.compiled.row_programs import RowPrograms
from nextpixel.scan.evaluating import check_weights
from nextpixel.scan.job import DrawJob
from nextpixel.scan.protocols import Model

# Entries at most: of one model, of all models, and their bytes together.
OF_A_MODEL, OF_ALL, BYTES = 4, 16, 2**28

_lock = threading.Lock()
_entries: "WeakKeyDictionary[Model, list[Entry]]" = WeakKeyDictionary()
_draws = count()


class Entry:
    """The programs of a draw, one set for each core, and the key that they were recorded for."""

    def __init__(self, key: Any, programs: list[RowPrograms]) -> None:
        self.key, self.programs, self.last = key, programs, 0
        self.nbytes = sum(of_core.nbytes for of_core in programs)


def take(owner: Model, model: Model, job: DrawJob, cores: int, weights: Any) -> Entry:
    """Programs for the unconditional images of a job, for each core; they belong to the caller until `put_back`.

    Args:
        owner: the model that the entry belongs to.
        model: the owner itself, or its twin in evaluation mode.
        job: the images of a chunk.
        cores: how many chunks are scanned at once.
        weights: `identity` of the model.
    """
    key = tuple(job.x.shape), job.known is not None, job.distribution, job.temperature, cores, weights
    with _lock:
        of_model = _entries.get(owner, [])
        for entry in of_model:
            if entry.key == key:
                of_model.remove(entry)
                return entry
    ((scanner, _),) = model.parts(job.x)
    first = RowPrograms(scanner, job)
    return Entry(key, [first, *(first.copy() for _ in range(cores - 1))])


def put_back(owner: Model, entry: Entry) -> None:
    """Return an entry for the next draw, and evict the oldest beyond the limits."""
    with _lock:
        entry.last = next(_draws)
        of_model = _entries.setdefault(owner, [])
        of_model.append(entry)
        del of_model[:-OF_A_MODEL]
        newest = sorted((e for of_one in _entries.values() for e in of_one), key=lambda e: -e.last)
        while len(newest) > OF_ALL or sum(e.nbytes for e in newest) > BYTES:
            oldest = newest.pop()
            for of_one in _entries.values():
                if oldest in of_one:
                    of_one.remove(oldest)


def forget() -> None:
    """Empty the cache."""
    with _lock:
        _entries.clear()


def identity(model: nn.Module) -> Any:
    """A digest of a model's weights, with their types and shapes.

    Raises:
        InputError: they are not finite.
    """
    weights = [*model.parameters(), *model.buffers()]
    *bits, finite = digest(weights)
    if not finite:
        check_weights(model)
    return (*bits, *((tensor.dtype, tensor.shape) for tensor in weights))
