r"""Integer frequency tables: from the distribution function of a symbol to the intervals that a range coder works with.

.. math:: F_k = k + 32 \, \mathrm{round}(T \cdot P(X < k)), \quad T = \lfloor (2^{bits} - K) / 32 \rfloor,
    \qquad F_0 = 0, \quad F_K = 2^{bits}

Symbol k of K has the interval [F_k, F_{k+1}) of 0 .. 2^bits - 1. Each is at least one count wide, whatever the model says,
and the widths sum to 2^bits without any correction, because a sum is never taken: neighbours share a boundary. One rounding
per boundary (half to even) of one product in float64 is all the arithmetic there is, so that equal numbers give equal tables
everywhere.

Why in steps of 32 counts: two things cost rate, and they want different resolutions. The one count that each symbol has for
certain costs K / 2^bits, which wants many bits; rounding the rest costs hardly anything until a step is as large as a usual
symbol's share; and every boundary that lies so near the middle between two steps that another processor might round it
differently costs a correction (`nextpixel.coding.margins`), which wants few, large steps. docs/codec.md has the figures.
"""

import math
from fractions import Fraction

import numpy as np

LEAST_BITS, MOST_BITS = 16, 20
STEP = 32


def table_bits(levels: int) -> int:
    """How fine the tables for so many levels are: 9 bits below a uniform law over them, but from 16 to 20 bits.

    Example:
        >>> [table_bits(levels) for levels in (2, 128, 256, 2048, 8192)]
        [16, 16, 17, 20, 20]
    """
    return min(MOST_BITS, max(LEAST_BITS, (levels - 1).bit_length() + 9))


def in_steps(cdf: np.ndarray, levels: int, bits: int) -> np.ndarray:
    """T P(X < k), not yet rounded, from values of the distribution function of K = `levels` symbols, float64 of any shape.

    Example:
        >>> in_steps(np.array([0.0, 0.25]), levels=2, bits=16)
        array([  0.  , 511.75])
    """
    return cdf * ((2**bits - levels) // STEP)


def boundaries(cdf: np.ndarray, bits: int) -> np.ndarray:
    """All boundaries F_0 .. F_K, int64 (B, K + 1), from the distribution function P(X <= k), float64 (B, K).

    Example:
        >>> boundaries(np.array([[0.25, 0.75, 1.0]]), bits=16)
        array([[    0, 16385, 49122, 65536]])
    """
    batch, levels = cdf.shape
    found = np.empty((batch, levels + 1), dtype=np.int64)
    found[:, 1:-1] = np.rint(in_steps(cdf[:, :-1], levels, bits)) * STEP + np.arange(1, levels)
    found[:, 0], found[:, -1] = 0, 2**bits
    return found


def boundaries_ref(cdf: list[float], bits: int) -> list[int]:
    """What `boundaries` computes, for one law, in whole numbers after the one product.

    Example:
        >>> boundaries_ref([0.25, 0.75, 1.0], bits=16)
        [0, 16385, 49122, 65536]
    """
    levels = len(cdf)
    steps = (2**bits - levels) // STEP
    return [0, *(k + STEP * round(Fraction(p * steps)) for k, p in enumerate(cdf[:-1], start=1)), 2**bits]


def least_cost(levels: int, bits: int) -> float:
    """The fewest bits that any symbol can cost, which is when all others have one count.

    Example:
        >>> round(least_cost(levels=256, bits=17), 5)
        0.00281
    """
    return -math.log2(1 - (levels - 1) / 2**bits)
