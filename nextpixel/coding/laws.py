"""The laws of all lanes at a place, as the choosers ask for them: at the two ends of a symbol's share, or at a quantile."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from nextpixel.coding import kernels
from nextpixel.likelihoods import DiscretizedLogisticMixture, Likelihood


class Laws(ABC):
    """The laws of one channel of a place after the other, in float64, whatever the network computes in.

    Args:
        likelihood: the law of a place.
        bits, digits: of the tables.
        lanes: images side by side.
    """

    def __init__(self, likelihood: Likelihood, bits: int, digits: int, lanes: int) -> None:
        self.likelihood, self.table = likelihood, (likelihood.levels, bits, digits)
        self.symbols, self.shares = np.zeros(lanes, dtype=np.int64), np.zeros((lanes, 2), dtype=np.int64)

    @abstractmethod
    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        """Go on to channel c of a place: params (B, P) and its symbols (B, C), of which those before c count."""

    @abstractmethod
    def ends(self, symbols: np.ndarray, out: np.ndarray) -> None:
        """P(X < x) and P(X <= x) of the symbol of each lane, into (B, 2)."""

    @abstractmethod
    def find(self, quantiles: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The symbols whose shares hold the quantiles (B,), in tables that round up from the thresholds (B,) on, and these shares
        [F_k, F_k+1), (B, 2); both until the next call."""


class TableLaws(Laws):
    """The laws of any likelihood, by the values of its distribution function for all symbols."""

    def __init__(self, likelihood: Likelihood, bits: int, digits: int, lanes: int) -> None:
        super().__init__(likelihood, bits, digits, lanes)
        self.clock = likelihood.colours > 1

    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        if c == 0 or self.clock:  # the other channels of a place have the same params
            self.place = self.likelihood.at(params.double())
        self.law = (self.place.cdf(known, c).cpu().numpy(),)

    def ends(self, symbols: np.ndarray, out: np.ndarray) -> None:
        kernels.ends_in_table(self.law, symbols, out)

    def find(self, quantiles: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernels.find_in_table(self.law, quantiles, thresholds, self.table, self.symbols, self.shares)
        return self.symbols, self.shares


class MixtureLaws(Laws):
    """The laws of a mixture of logistics, whose distribution function has a closed form: computed only where it is asked for."""

    def __init__(self, likelihood: DiscretizedLogisticMixture, bits: int, digits: int, lanes: int) -> None:
        super().__init__(likelihood, bits, digits, lanes)
        self.law = (*(np.zeros((lanes, likelihood.mixtures)) for _ in range(4)), likelihood.levels - 1)
        self.settings = likelihood.channels, likelihood.lowest_log_scale

    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        values = np.ascontiguousarray(params.double().cpu().numpy())
        kernels.condition_mixture(self.law, values, known.cpu().numpy(), c, *self.settings)

    def ends(self, symbols: np.ndarray, out: np.ndarray) -> None:
        kernels.ends_in_mixture(self.law, symbols, out)

    def find(self, quantiles: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernels.find_in_mixture(self.law, quantiles, thresholds, self.table, self.symbols, self.shares)
        return self.symbols, self.shares


def laws_of(likelihood: Likelihood, bits: int, digits: int, lanes: int) -> Laws:
    """The laws of a likelihood, computed in the way that suits it."""
    return (MixtureLaws if isinstance(likelihood, DiscretizedLogisticMixture) else TableLaws)(likelihood, bits, digits, lanes)
