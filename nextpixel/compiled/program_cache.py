"""Programs are kept from one call to the next: a model that draws again as it did, with the same weights, records nothing.

A few are kept, of all models together, and the oldest go first; none outlives its model. Whether weights are the same is told by
a digest of their values, wherever they lie.

A digest of numbers in memory: whether weights are what they were, without a copy of them, and whether all are finite.
"""

import threading
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from nextpixel.compiled.jit import jit
from nextpixel.compiled.row_programs import Rows
from nextpixel.compiled.simd import peek
from nextpixel.scan.evaluating import check_weights
from nextpixel.scan.job import Request

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


# Odd numbers without a pattern: 2^64 / golden ratio, and two of xxHash's primes.
PRIME_1, PRIME_2, PRIME_3 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
SHIFT, ZERO = np.uint64(29), np.uint64(0)
# The exponents of the numbers in a word of 64 bits, which are all ones where a number is infinite or none.
EXPONENTS = {torch.float32: (0x7F800000, 0x7F800000 << 32), torch.float64: (0x7FF << 52, 0x7FF << 52)}


def digest(tensors: list[Tensor]) -> tuple[int, int, bool]:
    """128 bits of the values of tensors, in their order, and whether all that are float32 or float64 are finite.

    Other values give other bits, but for one case in some 2^64.

    Example:
        >>> a, b = torch.zeros(5), torch.tensor([0.0, 0, 0, 0, 1e-30])
        >>> digest([a]) == digest([a.clone()]), digest([a]) == digest([b]), digest([a / a])[2]
        (True, False, False)
    """
    contiguous = [tensor.detach().contiguous() for tensor in tensors]
    table = [(t.data_ptr(), t.numel() * t.element_size(), *EXPONENTS.get(t.dtype, (0, 0))) for t in contiguous]
    first, second, infinite = _digest(np.array(table, np.uint64).reshape(-1, 4))
    return int(first), int(second), not infinite


@jit
def _digest(table: Any) -> tuple[Any, Any, bool]:
    """Four chains of words side by side; each step is a bijection of what was there before."""
    first, second, infinite = np.uint64(len(table)), ZERO, False
    for row in range(len(table)):
        address, size, low, high = np.int64(table[row, 0]), np.int64(table[row, 1]), table[row, 2], table[row, 3]
        a, b, c, d = first ^ PRIME_1, second ^ PRIME_2, first ^ PRIME_3, second + np.uint64(size)
        words, found = size // 32, ZERO
        for k in range(words):
            at = address + 32 * k
            p, q, r, s = peek(at, ZERO), peek(at + 8, ZERO), peek(at + 16, ZERO), peek(at + 24, ZERO)
            if low != ZERO:
                found |= np.uint64((p & low == low) | (p & high == high) | (q & low == low) | (q & high == high))
                found |= np.uint64((r & low == low) | (r & high == high) | (s & low == low) | (s & high == high))
            a, b, c, d = (a ^ p) * PRIME_1, (b ^ q) * PRIME_1, (c ^ r) * PRIME_1, (d ^ s) * PRIME_1
            a, b, c, d = a ^ (a >> SHIFT), b ^ (b >> SHIFT), c ^ (c >> SHIFT), d ^ (d >> SHIFT)
        # What is left is less than four words: the last of them may be a part of one.
        for k in range(32 * words, size, 8):
            word = ZERO
            for byte in range(min(8, size - k)):
                word |= np.uint64(peek(address + k + byte, np.uint8(0))) << np.uint64(8 * byte)
            if low != ZERO:
                found |= np.uint64((word & low == low) | (word & high == high))
            a = (a ^ word) * PRIME_1
            a = a ^ (a >> SHIFT)
        first = (a * PRIME_2 ^ b) * PRIME_3 ^ c
        second = (c * PRIME_2 ^ d) * PRIME_3 ^ a
        first, second, infinite = first ^ (first >> SHIFT), second ^ (second >> SHIFT), infinite or found != ZERO
    return first, second, infinite
