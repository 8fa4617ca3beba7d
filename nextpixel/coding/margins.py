r"""Why an archive decodes on a processor that rounds differently: corrections where a table's rounding hangs by a hair.

Two machines compute P(X <= k) with different last digits. The frequency table is the same as long as P is rounded to the same
point of the grid (`nextpixel.coding.tables`), and near the middle between two of them it may not be. To a range coder only the
two boundaries of the coded symbol matter, so the encoder looks at these, and where

.. math:: |P - (\text{middle between two points})| \le \epsilon \, P (1 - P) \, (1 - \ln P (1 - P))

it stores the parity of n, the number of the point that it took. The decoder, whose candidate may be off by one there, takes the
nearest point of that parity. The list of corrections is explicit, so the two need not agree on what is ambiguous.

The bound has this form because an error of logits that is at most d moves P by at most 2 d P (1 - P), and because the argument
of a logistic is wrong in proportion to itself, which in its tail is the logarithm of P. :math:`\epsilon` is measured for each
archive: some of its images go through the network twice, once with noise of 1e-10 relative on the result of every operation
(`nextpixel.coding.perturbation`), and the largest error, divided by this form, is taken 4-fold.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding.leb128 import Reader, leb128
from nextpixel.coding.perturbation import NOISE, Perturbed
from nextpixel.coding.tables import counts, digits, on_grid
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from nextpixel.models import AutoregressiveModel

SAFETY = 4
LEAST_EPSILON = 2.0**-30
MOST_ERROR = 0.25  # of P, in spacings of the grid: at one half, parity no longer tells which point it was
ABSOLUTE = 1e-13  # rounding errors of the law itself, which no noise is put on
TINY = 1e-300
CHUNK = 2**22  # probabilities computed at once


class Correction(NamedTuple):
    """For boundary k, 1..K-1, of the turn-th symbol of a scan P is rounded to a point of the grid with this parity."""

    turn: int
    k: int
    parity: int


def error_form(cdf: np.ndarray) -> np.ndarray:
    """v (1 - ln v) for v = P (1 - P): how much of the error bound P may be off by.

    Example:
        >>> error_form(np.array([0.5, 1e-4, 0.0])).round(3).tolist()
        [0.597, 0.001, 0.0]
    """
    spread = cdf * (1 - cdf)
    return spread * (1 - np.log(np.maximum(spread, TINY)))


def ambiguous(cdf: np.ndarray, levels: int, bits: int, epsilon: float) -> np.ndarray:
    """Which values of a distribution function might be rounded differently on another machine, bool of the same shape.

    Example:
        >>> ambiguous(np.array([76.5, 76.6]) / 256, levels=2, bits=16, epsilon=1e-8)
        array([ True, False])
    """
    n, spacing = on_grid(cdf, levels, bits)
    to_middle = 0.5 - np.abs(n - np.rint(n))
    return to_middle * spacing <= epsilon * error_form(cdf) + ABSOLUTE


def corrected(cdf: float, k: int, parity: int, levels: int, bits: int) -> int:
    """Boundary k as the encoder had it, from the decoder's P(X < k) and the parity of the encoder's n.

    Example:
        >>> corrected(76.499 / 256, 1, parity=1, levels=2, bits=16), corrected(76.499 / 256, 1, parity=0, levels=2, bits=16)
        (19712, 19456)
    """
    p = np.array(cdf)
    n, spacing = on_grid(p, levels, bits)
    candidate = np.rint(n)
    if candidate % 2 != parity:
        candidate += 1 if n > candidate else -1
    return int(counts(p, candidate, spacing, levels, bits)) + k


def pack(corrections: Iterable[Correction], levels: int) -> bytes:
    """A list of corrections in order: of each ((turns since the last one) (K - 1) + k - 1) 2 + parity, as a LEB128 number.

    Example:
        >>> pack([Correction(3, 1, 0), Correction(300, 1, 1)], levels=2).hex()
        '06d304'
    """
    found, before = bytearray(), 0
    for turn, k, parity in corrections:
        found += leb128((((turn - before) * (levels - 1) + k - 1) << 1) | parity)
        before = turn
    return bytes(found)


def unpack(data: bytes, levels: int) -> list[Correction]:
    """What `pack` packed.

    Raises:
        InputError: the bytes end within a number, or a number is too long.

    Example:
        >>> unpack(bytes.fromhex("06d304"), levels=2)
        [Correction(turn=3, k=1, parity=0), Correction(turn=300, k=1, parity=1)]
    """
    found, turn, reader = [], 0, Reader(data)
    try:
        while not reader.finished:
            place, parity = divmod(reader.number(), 2)
            delta, k = divmod(place, levels - 1)
            turn += delta
            found.append(Correction(turn, k + 1, parity))
    except InputError as error:
        raise InputError(f"a list of corrections cannot be right: {error}") from error
    return found


@torch.no_grad()
def measured_epsilon(model: "AutoregressiveModel", x: Tensor, h: Tensor | None, bits: int, noise: float = NOISE) -> float:
    """The error bound of a model in float64, from what noise on all arithmetic does to the laws of some images.

    Args:
        model: in float64 and eval mode.
        x: images (B, C, H, W).
        h: their encoded condition.
        bits: of the tables; a P that is within a quarter of the finest spacing from 0 or 1 is far from any middle.
        noise: relative, of every operation.

    Raises:
        InputError: the model magnifies rounding errors so much that no table can be relied on.
    """
    clean = model.network(model.encode(x), h)
    with Perturbed(noise):
        noisy = model.network(model.encode(x), None if h is None else h * 1)
    known, *params = (t.movedim(1, 3).flatten(0, 2) for t in (x, clean, noisy))
    largest = 0.0
    for known_part, *parts in zip(*(t.split(max(1, CHUNK // model.levels)) for t in (known, *params)), strict=True):
        laws = [model.likelihood.at(part) for part in parts]
        for c in range(model.shape[0]):
            right, wrong = (law.cdf(known_part, c)[:, :-1].cpu().numpy() for law in laws)
            matters = np.minimum(right, 1 - right) > 2.0**-bits / 4
            largest = max(largest, (np.abs(right - wrong)[matters] / error_form(right[matters])).max(initial=0.0))
    # In steps of 19 percent, so that the last digits of a measurement are not in the file.
    epsilon = 2.0 ** (np.ceil(4 * np.log2(max(SAFETY * largest, LEAST_EPSILON))) / 4)
    # The most spacings that the bound can be: for the smallest P with all digits.
    smallest = np.array(2.0 ** (digits(model.levels) - bits))
    if not epsilon * error_form(smallest) * 2.0**bits <= MOST_ERROR:
        raise InputError(f"this model turns noise of {noise} into errors of {largest:.1g}: no archive of it would be portable")
    return float(epsilon)
