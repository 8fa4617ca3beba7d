r"""Integer frequency tables: from the distribution function of a symbol to the intervals that a range coder works with.

.. math:: F_k = k + \mathrm{round}((2^{bits} - K) \cdot \mathrm{grid}(P(X < k))), \qquad F_0 = 0, \quad F_K = 2^{bits}

Symbol k of K has the interval [F_k, F_{k+1}) of 0 .. 2^bits - 1. Each is at least one count wide, whatever the model computes,
and the widths sum to 2^bits without any correction, because a sum is never taken: neighbours share a boundary. grid(P) has 7 to
16 binary digits of its distance from 0 or from 1, whichever is nearer, but no finer than 2^-bits:

    s = min(P, 1 - P),    2^(e-1) <= s < 2^e,    spacing = 2^max(e - digits, -bits),    n = s / spacing, rounded

and n spacing, or 1 minus it, is grid(P). n is rounded down, but up if its fraction is at least a threshold, usually one half.
What follows this one rounding is exact in float64 (halves go to the even number), so that equal numbers give equal tables
everywhere.

Why so coarsely: where P is so near the threshold between two neighbours of this grid that another processor might round it to
the other side, the encoder must use another threshold, and a coarse grid has few such places. The loss in rate is far smaller, as
long as the spacing is small beside a usual symbol's share, and beside P where P is small: an unlikely symbol at the end of a
distribution keeps its digits. docs/codec.md has the figures.

The threshold need not be one half. An encoder may use any of 16, and may change it at any turn. It chooses the one from which the
boundaries of the coded symbols keep a distance of more than the error bound (`coding.entropy.margins`) for the most turns, for
the longest of 16 run lengths that this allows, and so on to the end. A turn has two boundaries, which block some of the
thresholds, never all. A run is a byte: 16 times the number of its length, plus the number of its threshold. After the last run
the threshold is one half. A list of the ambiguous turns, as in the first version of the format, would cost three bytes for each.
"""

import numpy as np

from nextpixel.errors import InputError

LEAST_BITS, USUAL_BITS, MOST_BITS = 16, 20, 23
LEAST_DIGITS, MORE_DIGITS = 7, 3


THRESHOLDS = 1 / 4 + np.arange(16) / 32
USUAL = 8  # one half
# Turns of a run: finer where those of deep networks are.
LENGTHS = np.array([1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096])
LONGEST = int(LENGTHS[-1])
# From the threshold that costs nothing to those that cost most: rounding is the less exact the farther it is from one half.
_BY_COST = np.argsort(np.abs(THRESHOLDS - THRESHOLDS[USUAL]), kind="stable")


def table_bits(levels: int) -> int:
    """How fine the tables for so many levels are: 12 bits below a uniform distribution over them, but from 16 to 20 bits,
    and at least 7 bits below it: what each symbol has in any case, one count, then takes 1/128 of all counts.

    Example:
        >>> [table_bits(levels) for levels in (2, 32, 256, 8192, 65536)]
        [16, 17, 20, 20, 23]
    """
    digits = (levels - 1).bit_length()
    return max(LEAST_BITS, min(USUAL_BITS, digits + 12), digits + 7)


def table_digits(levels: int, epsilon: float | None) -> int:
    """How many binary digits of P count: up to 3 beyond the least, as long as the error bound, in spacings, stays below 2^-12.

    Args:
        levels: K.
        epsilon: the error bound (`nextpixel.coding.entropy.margins`); None where no other machine rounds.

    Example:
        >>> [table_digits(levels, 1e-6) for levels in (2, 32, 256, 8192)], table_digits(256, 2e-8), table_digits(256, None)
        ([7, 9, 11, 13], 13, 14)
    """
    least = LEAST_DIGITS + (levels - 1).bit_length() // 2
    more = (digits for digits in range(least + MORE_DIGITS, least, -1) if (epsilon or 0) * 2.0**digits <= 2.0**-12)
    return next(more, least)


def on_grid(cdf: np.ndarray, digits: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Where values of a distribution function lie on the grid: n, not yet rounded, and the spacing there, float64 as `cdf`.

    Example:
        >>> n, spacing = on_grid(np.array([0.3, 0.9, 1e-6]), digits=7, bits=16)
        >>> n.round(3).tolist(), np.log2(spacing).tolist()
        ([76.8, 102.4, 0.066], [-8.0, -10.0, -16.0])
    """
    side = np.minimum(cdf, 1 - cdf)
    spacing = np.ldexp(1.0, np.maximum(np.frexp(side)[1] - digits, -bits))
    return side / spacing, spacing


def rounded(n: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """The whole numbers of n, whose fractions count as one from the threshold on.

    Example:
        >>> rounded(np.array([2.25, 2.5, 2.75]), 0.5), rounded(np.array([2.25, 2.5, 2.75]), 0.625)
        (array([2., 3., 3.]), array([2., 2., 3.]))
    """
    whole = np.floor(n)
    return whole + (n - whole >= threshold)


def counts(cdf: np.ndarray, n: np.ndarray, spacing: np.ndarray, levels: int, bits: int) -> np.ndarray:
    """F_k - k, int64, where P(X < k), on this side of one half, is rounded to n spacings.

    Example:
        >>> counts(np.array([0.3, 0.9]), np.array([77, 102]), np.array([2**-8, 2**-10]), levels=2, bits=16)
        array([19711, 59006])
    """
    side = n * spacing
    return np.rint(np.where(cdf > 0.5, 1 - side, side) * (2**bits - levels)).astype(np.int64)


def boundaries(cdf: np.ndarray, bits: int, digits: int, threshold: float = 0.5) -> np.ndarray:
    """All boundaries F_0 .. F_K, int64 (B, K + 1), from the distribution function P(X <= k), float64 (B, K).

    Example:
        >>> boundaries(np.array([[0.25, 0.75, 1.0]]), bits=16, digits=8)
        array([[    0, 16384, 49152, 65536]])
    """
    batch, levels = cdf.shape
    inner = cdf[:, :-1]
    n, spacing = on_grid(inner, digits, bits)
    found = np.empty((batch, levels + 1), dtype=np.int64)
    found[:, 1:-1] = counts(inner, rounded(n, threshold), spacing, levels, bits)
    found[:, 1:-1] += np.arange(1, levels)
    found[:, 0], found[:, -1] = 0, 2**bits
    return found


class Runs:
    """The runs of one image, chosen as its turns become known.

    Example:
        >>> free = np.ones((6, 16), dtype=bool)
        >>> free[2, USUAL] = False
        >>> runs = Runs()
        >>> runs.extend(free, whole=True).tolist(), runs.pack().hex()
        ([7, 7, 7, 7, 7, 7], '27')
    """

    def __init__(self) -> None:
        self.packed = bytearray()

    def extend(self, free: np.ndarray, whole: bool) -> np.ndarray:
        """The thresholds of the turns that follow.

        Args:
            free: which thresholds each of them may have, bool (turns, 16).
            whole: these are all that are left. If not, thresholds are returned only for those that do not depend on later turns.

        Returns:
            The numbers of their thresholds, (turns or fewer,).

        Raises:
            InputError: a turn that may have none.
        """
        turns = len(free)
        blocked = np.where(free, turns, np.arange(turns)[:, None])
        blocked = np.minimum.accumulate(blocked[::-1])[::-1]  # where each threshold is blocked next
        chosen, t = np.empty(turns, dtype=np.int64), 0
        while t < turns and (whole or t + LONGEST <= turns):
            lengths = np.searchsorted(LENGTHS, blocked[t] - t, side="right") - 1
            # A run that lasts to the end may be given a longer length.
            lengths[blocked[t] == turns] = np.searchsorted(LENGTHS, min(turns - t, LONGEST))
            best = _BY_COST[lengths[_BY_COST].argmax()]
            if lengths[best] < 0:
                raise InputError("this model turns rounding errors into such errors that no archive of these images is portable")
            self.packed.append(int(lengths[best] << 4 | best))
            chosen[t : t + LENGTHS[lengths[best]]] = best
            t += LENGTHS[lengths[best]]
        return chosen[: min(t, turns)]

    def pack(self) -> bytes:
        """A byte for each run, without those at the end that repeat the default."""
        end = len(self.packed)
        while end and self.packed[end - 1] & 15 == USUAL:
            end -= 1
        return bytes(self.packed[:end])


def changes(packed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """At which turns a threshold begins to hold, int64, and which, from what `Runs.pack` packed.

    Example:
        >>> [found.tolist() for found in changes(bytes.fromhex("27"))], len(changes(b"")[0])
        ([[0, 8], [0.46875, 0.5]], 0)
    """
    if not packed:
        return np.empty(0, dtype=np.int64), np.empty(0)
    runs = np.frombuffer(packed, dtype=np.uint8)
    turns = np.concatenate([[0], LENGTHS[runs >> 4].cumsum()])
    return turns, np.append(THRESHOLDS[runs & 15], THRESHOLDS[USUAL])
