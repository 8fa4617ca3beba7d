r"""Why an archive decodes on a processor that rounds differently: corrections where a table's rounding hangs by a hair.

Two machines compute P(X <= k) with different last digits. The frequency table is the same as long as T P rounds to the same
integer, and near the middle between two integers it may not. To a range coder only the two boundaries of the coded symbol
matter, so the encoder looks at these, and where

.. math:: |T P - (\text{nearest integer} \pm 1/2)| \le T \cdot \epsilon \cdot P (1 - P)

it stores the parity of the integer that it took. The decoder, whose candidate may be off by one there, takes the next integer
of that parity. The list of corrections is explicit, so the two need not agree on what is ambiguous.

The bound has the form :math:`\epsilon P (1 - P)` because an error of logits that is at most d moves P by at most
2 d P (1 - P). :math:`\epsilon` is measured for each archive: some of its images go through the network twice, once with noise
of 1e-10 relative on the result of every operation (`nextpixel.coding.perturbation`), and the largest error of P, divided by
P (1 - P), is taken 4-fold.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding.perturbation import NOISE, Perturbed
from nextpixel.coding.tables import STEP, in_steps
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from nextpixel.models import AutoregressiveModel

SAFETY = 4
LEAST_EPSILON = 2.0**-30
MOST_STEPS = 0.25  # the error bound of the most uncertain boundary: at half a step parity no longer tells which integer it was
ABSOLUTE = 1e-13  # rounding errors of the law itself, which no noise is put on
CHUNK = 2**22  # probabilities computed at once


class Correction(NamedTuple):
    """Boundary k, 1..K-1, of the turn-th symbol of a scan is the integer of this parity (times 32, plus k)."""

    turn: int
    k: int
    parity: int


def ambiguous(cdf: np.ndarray, levels: int, bits: int, epsilon: float) -> np.ndarray:
    """Which values of a distribution function might round differently on another machine, bool of the same shape.

    Example:
        >>> ambiguous(np.array([0.5 / 2047, 0.25 / 2047]), levels=2, bits=16, epsilon=1e-8)
        array([ True, False])
    """
    scaled = in_steps(cdf, levels, bits)
    to_middle = 0.5 - np.abs(scaled - np.rint(scaled))
    return to_middle <= in_steps(epsilon * cdf * (1 - cdf) + ABSOLUTE, levels, bits)


def corrected(cdf: float, k: int, parity: int, levels: int, bits: int) -> int:
    """Boundary k as the encoder had it, from the decoder's P(X < k) and the parity of the encoder's integer.

    Example:
        >>> corrected(0.4999 / 2047, 1, parity=1, levels=2, bits=16), corrected(0.4999 / 2047, 1, parity=0, levels=2, bits=16)
        (33, 1)
    """
    scaled = float(in_steps(np.array(cdf), levels, bits))
    candidate = round(scaled)
    if candidate % 2 != parity:
        candidate += 1 if scaled > candidate else -1
    return candidate * STEP + k


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
        InputError: the bytes end within a number.

    Example:
        >>> unpack(bytes.fromhex("06d304"), levels=2)
        [Correction(turn=3, k=1, parity=0), Correction(turn=300, k=1, parity=1)]
    """
    found, turn, number, shift = [], 0, 0, 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            place, parity = divmod(number, 2)
            delta, k = divmod(place, levels - 1)
            turn += delta
            found.append(Correction(turn, k + 1, parity))
            number = shift = 0
    if shift:
        raise InputError("a list of corrections ends within a number")
    return found


def leb128(number: int) -> bytes:
    """A whole number in groups of 7 bits, lowest first, each but the last with its high bit set.

    Example:
        >>> leb128(300).hex()
        'ac02'
    """
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


@torch.no_grad()
def measured_epsilon(model: "AutoregressiveModel", x: Tensor, h: Tensor | None, bits: int, noise: float = NOISE) -> float:
    """The error bound of a model in float64, from what noise on all arithmetic does to the laws of some images.

    Args:
        model: in float64 and eval mode.
        x: images (B, C, H, W).
        h: their encoded condition.
        bits: of the tables; where P (1 - P) is below an eighth of a count no boundary is near the middle of a step.
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
            right, wrong = (law.cdf(known_part, c)[:, :-1] for law in laws)
            spread = right * (1 - right)
            matters = spread > 2.0**-bits / 8
            if matters.any():
                largest = max(largest, float(((right - wrong).abs() / spread)[matters].max()))
    # A power of two, so that the last digits of a measurement are not in the file.
    epsilon = max(LEAST_EPSILON, 2.0 ** np.ceil(np.log2(max(SAFETY * largest, 1e-300))))
    if not in_steps(np.array(epsilon / 4), model.levels, bits) <= MOST_STEPS:
        raise InputError(f"this model turns noise of {noise} into errors of {largest:.1g}: no archive of it would be portable")
    return float(epsilon)
