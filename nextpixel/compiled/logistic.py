"""The bins of a discretized logistic, for compiled loops: as `nextpixel.likelihoods.logistic_mixture` has them."""

import math

from numba import njit

from nextpixel.likelihoods.logistic_mixture import FAR


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
