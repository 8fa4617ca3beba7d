"""The draw instructions: a symbol for every image, by the rules of the likelihoods' own `draw`.

Operands: out, the place's symbols (int64, strides of image and channel); a, its params; b, the noise (float64), and b_1 the
address of the distribution's settings (float64); c, which symbols are known, if any are (bool). Sizes: n0 images, n1 levels,
n2 the channel, k mixtures. Each function returns the number of images whose params are NaN.

The bins of a discretized logistic are those of `nextpixel.likelihoods.logistic_mixture`.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from nextpixel.compiled.simd import elementwise, peek, poke, size_of
from nextpixel.likelihoods.logistic_mixture import FAR, HIGHEST_LOG_SCALE, NEARLY_1

_copy, _exp, _sigmoid, _tanh = (elementwise(name) for name in ("copy", "exp", "sigmoid", "tanh"))


@njit(nogil=True)
def draw_binary(instruction: Any, out: int, params: int, noise: int, known: int, like: Any) -> int:
    """A one if P(X <= 0) does not exceed the noise. Settings: temperature and guidance, 1 for none."""
    temperature, failed = peek(instruction[13], np.float64(0)), 0
    for image in range(instruction[1]):
        if not _is_known(instruction, known, image):
            zero = 1 / (1 + math.exp(_logit(instruction, params, image, 0, like) / temperature))
            failed += zero != zero
            _choose(instruction, out, image, 1 if zero <= _noise(instruction, noise, image) else 0)
    return failed


@njit(nogil=True)
def draw_categorical(instruction: Any, out: int, params: int, noise: int, known: int, scratch: int, like: Any) -> int:
    """The smallest symbol whose cumulated probability exceeds the noise. Settings as of `draw_binary`."""
    size, levels, temperature, failed = size_of(like), instruction[2], peek(instruction[13], np.float64(0)), 0
    for image in range(instruction[1]):
        if _is_known(instruction, known, image):
            continue
        highest = -np.inf
        for level in range(levels):
            highest = max(highest, _logit(instruction, params, image, level, like))
        for level in range(levels):
            poke(scratch + level * size, (_logit(instruction, params, image, level, like) - highest) / temperature, like)
        _exp(scratch, scratch, 0, 0, levels, like)
        total = 0.0
        for level in range(levels):
            total += peek(scratch + level * size, like)
        threshold = total * _noise(instruction, noise, image)
        failed += threshold != threshold
        symbol, cumulated = 0, np.float64(peek(scratch, like))
        while not cumulated > threshold and symbol < levels - 1:
            symbol += 1
            cumulated += peek(scratch + symbol * size, like)
        _choose(instruction, out, image, symbol)
    return failed


@njit(nogil=True)
def draw_mixture(instruction: Any, out: int, params: int, noise: int, known: int, scratch: int, like: Any) -> int:
    """As the place of a `DiscretizedLogisticMixture` draws: known channels move means and weights; then a search.

    Settings: the number of channels and the least log-scale. The scratch memory holds runs of a number for each component:
    weights, means, terms of a sum, and 1 / s.
    """
    size, levels, channel, mixtures = size_of(like), instruction[2], instruction[3], instruction[4]
    channels, lowest = np.int64(peek(instruction[13], np.float64(0))), peek(instruction[13] + 8, np.float64(0))
    run = size * mixtures
    weights, means, terms, rates = scratch, scratch + run, scratch + 2 * run, scratch + 3 * run
    failed = 0
    for image in range(instruction[1]):
        if _is_known(instruction, known, image):
            continue
        place, symbols = params + image * instruction[9] * size, out + image * instruction[6] * 8
        _copy(weights, place, 0, 0, mixtures, like)
        for c in range(channel + 1):
            _copy(means, place + (1 + c) * run, 0, 0, mixtures, like)
            for d in range(c):
                _tanh(terms, place + (1 + 2 * channels + c * (c - 1) // 2 + d) * run, 0, 0, mixtures, like)
                y = intensity(peek(symbols + d * instruction[7] * 8, np.int64(0)), levels)
                for k in range(mixtures):
                    mean = peek(means + k * size, like) + peek(terms + k * size, like) * y
                    poke(means + k * size, mean, like)
            for k in range(mixtures):
                log_scale = np.float64(peek(place + ((1 + channels + c) * mixtures + k) * size, like))
                poke(rates + k * size, -min(max(log_scale, lowest), HIGHEST_LOG_SCALE), like)
            _exp(rates, rates, 0, 0, mixtures, like)
            if c < channel:  # a component that explains the known channels badly is as unlikely for the next one
                symbol = peek(symbols + c * instruction[7] * 8, np.int64(0))
                for k in range(mixtures):
                    mass = log_mass(
                        np.float64(peek(means + k * size, like)), np.float64(peek(rates + k * size, like)), symbol, levels
                    )
                    poke(weights + k * size, peek(weights + k * size, like) + mass, like)
        highest = -np.inf
        for k in range(mixtures):
            highest = max(highest, np.float64(peek(weights + k * size, like)))
        for k in range(mixtures):
            poke(weights + k * size, peek(weights + k * size, like) - highest, like)
        _exp(weights, weights, 0, 0, mixtures, like)
        total = 0.0
        for k in range(mixtures):
            total += peek(weights + k * size, like)
        threshold = total * _noise(instruction, noise, image) * NEARLY_1
        low, high, cumulated = 0, levels - 1, threshold
        while low < high:
            middle = (low + high) // 2
            side = upper_side(middle, levels)
            for k in range(mixtures):
                term = (side - peek(means + k * size, like)) * peek(rates + k * size, like)
                poke(terms + k * size, term, like)
            _sigmoid(terms, terms, 0, 0, mixtures, like)
            cumulated = 0.0
            for k in range(mixtures):
                cumulated += np.float64(peek(terms + k * size, like)) * peek(weights + k * size, like)
            if cumulated > threshold:
                high = middle
            else:
                low = middle + 1
        failed += threshold + cumulated != threshold + cumulated
        poke(symbols + channel * instruction[7] * 8, low, np.int64(0))
    return failed


@njit(nogil=True)
def _is_known(instruction: Any, known: int, image: int) -> bool:
    return known != 0 and peek(known + image * instruction[15], np.uint8(0)) != 0


@njit(nogil=True)
def _logit(instruction: Any, params: int, image: int, level: int, like: Any) -> float:
    """A logit; under guidance s, that of p(. | h)^s p(.)^(1 - s): the unconditional images follow the conditional ones."""
    size, guidance = size_of(like), peek(instruction[13] + 8, np.float64(0))
    logit = np.float64(peek(params + (image * instruction[9] + level) * size, like))
    if guidance == 1:
        return logit
    return guidance * logit + (1 - guidance) * peek(params + ((image + instruction[1]) * instruction[9] + level) * size, like)


@njit(nogil=True)
def _choose(instruction: Any, out: int, image: int, symbol: int) -> None:
    """Write a symbol, and under guidance the same for the image without its condition."""
    poke(out + image * instruction[6] * 8, symbol, np.int64(0))
    if peek(instruction[13] + 8, np.float64(0)) != 1:
        poke(out + (image + instruction[1]) * instruction[6] * 8, symbol, np.int64(0))


@njit(nogil=True)
def _noise(instruction: Any, noise: int, image: int) -> float:
    return peek(noise + image * instruction[12] * 8, np.float64(0))


@njit(nogil=True)
def intensity(symbol: int, levels: int) -> float:
    """From -1 to 1.

    Example:
        >>> intensity(0, 256), intensity(255, 256)
        (-1.0, 1.0)
    """
    return (2.0 * symbol - (levels - 1)) / (levels - 1)


@njit(nogil=True)
def upper_side(symbol: int, levels: int) -> float:
    """Of the symbol's bin; that of the last one is open."""
    return FAR if symbol == levels - 1 else (2.0 * symbol - (levels - 2)) / (levels - 1)


@njit(nogil=True)
def log_mass(mean: float, rate: float, symbol: int, levels: int) -> float:
    """log of the probability of the symbol's bin under one logistic of this mean and 1 / s, exact however small it is.

    Example:
        >>> round(math.exp(log_mass(0.0, 1.0, 0, 2)), 12)
        0.5
    """
    lower = -FAR if symbol == 0 else (2.0 * symbol - levels) / (levels - 1)
    inside = -math.expm1(-2.0 / (levels - 1) * rate) if 0 < symbol < levels - 1 else 1.0
    above, below = (upper_side(symbol, levels) - mean) * rate, (mean - lower) * rate
    if above > -300 and below > -300:  # one logarithm of the product, where it is far from the least number
        return math.log(inside / ((1 + math.exp(-above)) * (1 + math.exp(-below))))
    return math.log(inside) + _log_sigmoid(above) + _log_sigmoid(below)


@njit(nogil=True)
def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))
