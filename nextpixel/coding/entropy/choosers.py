"""Encode and Decode: the two choosers of the raster loop that make a codec of a model.

Both get the params of the step path and compute the same distribution function from them. `Encode` reads it at the two ends of
the share of a symbol that is given; `Decode` finds the symbol whose share holds the code point.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding.entropy import kernels
from nextpixel.coding.entropy.margins import free
from nextpixel.coding.entropy.range_coder import Encoder, LaneDecoder
from nextpixel.coding.entropy.tables import LONGEST, THRESHOLDS, USUAL, Runs, changes, counts, on_grid, rounded, table_digits
from nextpixel.errors import InputError
from nextpixel.likelihoods import DiscretizedLogisticMixture, Likelihood

# Symbols of each image that are encoded at once: enough for large operations, few enough for the memory.
AT_ONCE = 4096


class Stream(NamedTuple):
    """The code of one scanned image, or tile: what the range coder wrote, and the thresholds of its tables (`Runs.pack`)."""

    payload: bytes
    thresholds: bytes


class Encode:
    """Keep every symbol and note the two ends of its share: after the scan, `streams` has the code of each image.

    Args:
        likelihood: of a place.
        bits: of the tables.
        epsilon: the error bound of the margins; None for one threshold throughout, if the same machine decodes.
        images: in the batch.
    """

    def __init__(self, likelihood: Likelihood, bits: int, epsilon: float | None, images: int) -> None:
        self.levels, self.bits, self.epsilon = likelihood.levels, bits, epsilon
        self.digits = table_digits(likelihood.levels, epsilon)
        self.distributions = DISTRIBUTIONS[likelihood.coding](likelihood, bits, self.digits, images)
        self.encoders, self.runs = [Encoder(bits) for _ in range(images)], [Runs() for _ in range(images)]
        # What is noted and not yet encoded: a threshold is chosen by as many turns as it may hold for.
        self._symbols = np.empty((LONGEST + AT_ONCE, images), dtype=np.int64)
        self._ends = np.empty((LONGEST + AT_ONCE, images, 2))
        self._noted, self._encoded = 0, [0] * images

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        symbol = x[:, c, i, j].clone()
        self.distributions.begin(params, x[:, :, i, j], c)
        self._symbols[self._noted] = symbol.cpu().numpy()
        self.distributions.ends(self._symbols[self._noted], self._ends[self._noted])
        self._noted += 1
        if self._noted == len(self._symbols):
            self._encode(whole=False)
            done = min(self._encoded)
            for noted in (self._symbols, self._ends):
                noted[: self._noted - done] = noted[done:].copy()
            self._noted, self._encoded = self._noted - done, [turns - done for turns in self._encoded]
        return symbol

    def streams(self) -> list[Stream]:
        """The code of each image.

        Raises:
            InputError: the model gave no probabilities somewhere, or such as no threshold is beyond the error bound of.
        """
        self._encode(whole=True)
        return [Stream(encoder.payload(), runs.pack()) for encoder, runs in zip(self.encoders, self.runs, strict=True)]

    def _encode(self, whole: bool) -> None:
        """Encode what is noted, an image at a time in few large operations."""
        for image, (encoder, runs) in enumerate(zip(self.encoders, self.runs, strict=True)):
            waiting = slice(self._encoded[image], self._noted)
            symbols, cdf = self._symbols[waiting, image], self._ends[waiting, image]
            if not np.isfinite(cdf).all():
                raise InputError(
                    "the model gives no probabilities: its weights, or what it makes of these images, are not finite"
                )
            k = symbols[:, None] + np.arange(2)
            inner = (k > 0) & (k < self.levels)  # the outermost boundaries are constants
            if self.epsilon is None:
                chosen = np.full(len(symbols), USUAL)
            else:
                chosen = runs.extend(free(cdf, self.digits, self.bits, self.epsilon).all(1), whole)
            turns = len(chosen)
            k, cdf, inner = k[:turns], cdf[:turns], inner[:turns]
            n, spacing = on_grid(cdf, self.digits, self.bits)
            found = k + counts(cdf, rounded(n, THRESHOLDS[chosen][:, None]), spacing, self.levels, self.bits)
            found = np.where(inner, found, np.where(k > 0, 2**self.bits, 0))
            encoder.add(found[:, 0], found[:, 1])
            self._encoded[image] += turns


class Decode:
    """Choose the symbols that `Encode` has kept.

    Args:
        likelihood: of a place.
        bits: of the tables.
        epsilon: as it was for `Encode`.
        streams: of each image of the batch.
    """

    def __init__(self, likelihood: Likelihood, bits: int, epsilon: float | None, streams: list[Stream]) -> None:
        self.distributions = DISTRIBUTIONS[likelihood.coding](
            likelihood, bits, table_digits(likelihood.levels, epsilon), len(streams)
        )
        self.decoder = LaneDecoder([stream.payload for stream in streams], bits)
        self.turn, self.thresholds = 0, np.full(len(streams), THRESHOLDS[USUAL])
        # At which turns which lanes have another threshold from then on, in the order of the turns.
        found = [changes(stream.thresholds) for stream in streams]
        lanes = np.repeat(np.arange(len(streams)), [len(turns) for turns, _ in found])
        turns, thresholds = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(turns, kind="stable")
        self.changes, self.changed = (turns[order], lanes[order], thresholds[order]), 0

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        self.distributions.begin(params, x[:, :, i, j], c)
        turns, lanes, thresholds = self.changes
        while self.changed < len(turns) and turns[self.changed] == self.turn:
            self.thresholds[lanes[self.changed]] = thresholds[self.changed]
            self.changed += 1
        symbols, shares = self.distributions.find(self.decoder.quantiles(), self.thresholds)
        self.decoder.advance(shares)
        self.turn += 1
        return torch.from_numpy(symbols).to(x.device)


class Distributions(ABC):
    """The distributions of one channel of a place after the other, in all lanes, in float64, whatever the network computes in.

    Args:
        likelihood: of a place.
        bits, digits: of the tables.
        lanes: images side by side.

    Attributes:
        values: of the current channel, as the kernels read them.
    """

    loops: ClassVar[tuple[Callable[..., None], Callable[..., None]]]  # of `ends` and of `find`
    values: tuple[Any, ...]

    def __init__(self, likelihood: Likelihood, bits: int, digits: int, lanes: int) -> None:
        self.likelihood, self.table = likelihood, (likelihood.levels, bits, digits)
        self.symbols, self.shares = np.zeros(lanes, dtype=np.int64), np.zeros((lanes, 2), dtype=np.int64)

    @abstractmethod
    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        """Go on to channel c of a place: params (B, P) and its symbols (B, C), of which those before c count."""

    def ends(self, symbols: np.ndarray, out: np.ndarray) -> None:
        """P(X < x) and P(X <= x) of the symbol of each lane, into (B, 2)."""
        self.loops[0](self.values, symbols, out)

    def find(self, quantiles: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The symbols whose shares hold the quantiles (B,), in tables that round up from the thresholds (B,) on, and these shares
        [F_k, F_k+1), (B, 2); both until the next call."""
        self.loops[1](self.values, quantiles, thresholds, self.table, self.symbols, self.shares)
        return self.symbols, self.shares


class CdfDistributions(Distributions):
    """Of any likelihood: all values of its distribution function."""

    loops = kernels.ends_in_table, kernels.find_in_table

    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        if c == 0 or self.likelihood.colours > 1:  # the other channels of a place have the same params
            self.place = self.likelihood.at(params.double())
        self.values = (self.place.cdf(known, c).cpu().numpy(),)


class MixtureDistributions(Distributions):
    """Of a mixture of logistics, whose distribution function has a closed form: computed at single symbols."""

    loops = kernels.ends_in_mixture, kernels.find_in_mixture

    def __init__(self, likelihood: DiscretizedLogisticMixture, bits: int, digits: int, lanes: int) -> None:
        super().__init__(likelihood, bits, digits, lanes)
        self.values = (*(np.zeros((lanes, likelihood.mixtures)) for _ in range(4)), likelihood.levels - 1)

    def begin(self, params: Tensor, known: Tensor, c: int) -> None:
        numbers, likelihood = np.ascontiguousarray(params.double().cpu().numpy()), self.likelihood
        settings = likelihood.channels, likelihood.lowest_log_scale
        kernels.condition_mixture(self.values, numbers, known.cpu().numpy(), c, *settings)


# By `Likelihood.coding`.
DISTRIBUTIONS: dict[str, type[Distributions]] = {"cdf": CdfDistributions, "logistic-mixture": MixtureDistributions}
