"""Compiled loops over lanes: distribution functions at single symbols, the search for a symbol, the range decoder's arithmetic.

A symbol is found by halving, with some log2(levels) values of the distribution function, and as many boundaries of the table.
One function gives P(X <= k) of a lane, to the encoder as to the decoder, and whatever the other lanes are, so that on one
machine both compute the same bits. A distribution is a tuple of arrays over all lanes.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from nextpixel.compiled.draw_kernels import intensity, log_mass, upper_side
from nextpixel.compiled.jit import jit
from nextpixel.likelihoods.logistic_mixture import HIGHEST_LOG_SCALE

_24, _32 = np.uint64(24), np.uint64(32)


@njit
def boundary(p: float, k: int, levels: int, bits: int, digits: int, threshold: float) -> int:
    """F_k from P(X < k), as `tables.boundaries`, whatever p is where the network's numbers are not finite."""
    if k <= 0 or k >= levels:
        return 0 if k <= 0 else 1 << bits
    p = min(p, 1.0) if p >= 0 else 0.0
    side = min(p, 1 - p)
    spacing = math.ldexp(1.0, max(math.frexp(side)[1] - digits, -bits))
    n = side / spacing
    whole = math.floor(n)
    side = (whole + (n - whole >= threshold)) * spacing
    return k + int(np.rint((1 - side if p > 0.5 else side) * ((1 << bits) - levels)))


# --- P(X <= k) in one lane -----------------------------------------------------------------------------------------------


@njit
def _of_table(distribution: Any, lane: int, k: int) -> float:
    return distribution[0][lane, k]


@njit
def _of_mixture(distribution: Any, lane: int, k: int) -> float:
    _, weights, means, rates, last = distribution
    if k >= last:
        return 1.0
    side, total = upper_side(k, last + 1), 0.0
    for m in range(weights.shape[1]):
        total += weights[lane, m] / (1 + math.exp((means[lane, m] - side) * rates[lane, m]))
    return total


@jit
def condition_mixture(distribution: Any, params: Any, known: Any, c: int, channels: int, lowest: float) -> None:
    """Turn `distribution`, that of channel c - 1 of these places, into that of channel c: see `DiscretizedLogisticMixture`.

    Args:
        distribution: logits, weights, means and 1 / s of the components (B, K), and levels - 1.
        params: (B, P).
        known: the symbols of these places (B, C), of which those before c count.
        c: the channel.
        channels: C.
        lowest: the least log-scale.
    """
    logits, weights, means, rates, last = distribution
    lanes, mixtures = logits.shape
    for lane in range(lanes):
        largest = -math.inf
        for m in range(mixtures):
            if c == 0:
                logits[lane, m] = params[lane, m]
            else:
                logits[lane, m] += log_mass(means[lane, m], rates[lane, m], known[lane, c - 1], last + 1)
            largest = max(largest, logits[lane, m])
            mean = params[lane, (1 + c) * mixtures + m]
            for d in range(c):
                coefficient = params[lane, (1 + 2 * channels + c * (c - 1) // 2 + d) * mixtures + m]
                mean += math.tanh(coefficient) * intensity(known[lane, d], last + 1)
            means[lane, m] = mean
            rates[lane, m] = math.exp(-min(max(params[lane, (1 + channels + c) * mixtures + m], lowest), HIGHEST_LOG_SCALE))
        total = 0.0
        for m in range(mixtures):
            weights[lane, m] = math.exp(logits[lane, m] - largest)
            total += weights[lane, m]
        for m in range(mixtures):
            weights[lane, m] /= total


# --- both ends of a symbol's share, and the symbol at a quantile ---------------------------------------------------------


@njit
def _ends(at: Callable, distribution: Any, symbols: Any, out: Any) -> None:
    for lane in range(len(symbols)):
        k = symbols[lane]
        out[lane, 0] = at(distribution, lane, k - 1) if k > 0 else 0.0
        out[lane, 1] = at(distribution, lane, k)


@njit
def _find(at: Callable, distribution: Any, quantiles: Any, thresholds: Any, table: Any, symbols: Any, shares: Any) -> None:
    levels, bits, digits = table
    for lane in range(len(quantiles)):
        low, high, lower, upper = 0, levels, 0, 1 << bits
        while high - low > 1:
            k = (low + high) // 2
            found = boundary(at(distribution, lane, k - 1), k, levels, bits, digits, thresholds[lane])
            if found <= quantiles[lane]:
                low, lower = k, found
            else:
                high, upper = k, found
        symbols[lane], shares[lane, 0], shares[lane, 1] = low, lower, upper


@njit  # which numba can not keep on the disk: it hands on a function
def ends_in_table(distribution: Any, symbols: Any, out: Any) -> None:
    """P(X < x) and P(X <= x), (B, 2), for the symbol of each lane."""
    _ends(_of_table, distribution, symbols, out)


@njit  # which numba can not keep on the disk: it hands on a function
def ends_in_mixture(distribution: Any, symbols: Any, out: Any) -> None:
    """As `ends_in_table`."""
    _ends(_of_mixture, distribution, symbols, out)


@njit  # which numba can not keep on the disk: it hands on a function
def find_in_table(distribution: Any, quantiles: Any, thresholds: Any, table: Any, symbols: Any, shares: Any) -> None:
    """The symbols (B,) whose shares [F_k, F_k+1), (B, 2), hold the quantiles; `table` is levels, bits and digits."""
    _find(_of_table, distribution, quantiles, thresholds, table, symbols, shares)


@njit  # which numba can not keep on the disk: it hands on a function
def find_in_mixture(distribution: Any, quantiles: Any, thresholds: Any, table: Any, symbols: Any, shares: Any) -> None:
    """As `find_in_table`."""
    _find(_of_mixture, distribution, quantiles, thresholds, table, symbols, shares)


# --- the range decoder ---------------------------------------------------------------------------------------------------


@jit
def quantiles(offset: Any, size: Any, bits: int, out: Any) -> None:
    """Where the code point of each lane lies in 0 .. 2^bits - 1, or beyond it if a payload is no encoder's.

    `offset` is how far the code point is from `lower`, `size` the range.
    """
    for lane in range(len(offset)):
        out[lane] = np.int64(offset[lane] // (size[lane] >> _24)) >> (24 - bits)


@jit
def advance(offset: Any, size: Any, following: Any, words: Any, shares: Any, bits: int) -> None:
    """Take the intervals [lower, upper) of 2^bits, (B, 2), and words (B, n) where the range has become short."""
    for lane in range(len(offset)):
        unit = (size[lane] >> _24) << np.uint64(24 - bits)
        offset[lane] -= unit * np.uint64(shares[lane, 0])
        size[lane] = unit * np.uint64(shares[lane, 1] - shares[lane, 0])
        if size[lane] >> _32 == 0:
            size[lane] <<= _32
            offset[lane] <<= _32
            if following[lane] < words.shape[1]:
                offset[lane] |= words[lane, following[lane]]
            following[lane] += 1
