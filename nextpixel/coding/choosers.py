"""Encode and Decode: the two choosers of the raster loop that make a codec of a model.

Both get the params of the step path, make the same distribution function of them, and differ in who knows the symbol.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding import coder
from nextpixel.coding.laws import laws_of
from nextpixel.coding.margins import Correction, ambiguous, corrected, pack, unpack
from nextpixel.coding.tables import boundaries, counts, on_grid
from nextpixel.errors import InputError
from nextpixel.likelihoods import Likelihood

# Symbols of each image that are encoded at once: enough for large operations, few enough for the memory.
AT_ONCE = 2048


class Stream(NamedTuple):
    """The code of one scanned image, or tile: what the range coder wrote, and the corrections of its tables (`margins.pack`)."""

    payload: bytes
    corrections: bytes


class Encode:
    """Keep every symbol and note the two ends of its share: after the scan, `streams` has the code of each image.

    Args:
        likelihood: the law of a place.
        bits: of the tables.
        epsilon: the error bound of the margins; None for no corrections, if the same machine decodes.
        images: in the batch.
    """

    def __init__(self, likelihood: Likelihood, bits: int, epsilon: float | None, images: int) -> None:
        self.laws, self.levels, self.bits, self.epsilon = laws_of(likelihood, bits, images), likelihood.levels, bits, epsilon
        self.encoders = [coder.Encoder(bits) for _ in range(images)]
        self.corrections: list[list[Correction]] = [[] for _ in range(images)]
        self.turn = 0  # of the first symbol that is noted, but not encoded
        self._noted = 0
        self._symbols, self._ends = np.empty((AT_ONCE, images), dtype=np.int64), np.empty((AT_ONCE, images, 2))

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        symbol = x[:, c, i, j].clone()
        self.laws.begin(params, x[:, :, i, j], c)
        self._symbols[self._noted] = symbol.cpu().numpy()
        self.laws.ends(self._symbols[self._noted], self._ends[self._noted])
        self._noted += 1
        if self._noted == AT_ONCE:
            self._encode()
        return symbol

    def streams(self) -> list[Stream]:
        """The code of each image.

        Raises:
            InputError: the model gave no probabilities somewhere.
        """
        self._encode()
        packed = (pack(corrections, self.levels) for corrections in self.corrections)
        return [Stream(encoder.payload(), of_image) for encoder, of_image in zip(self.encoders, packed, strict=True)]

    def _encode(self) -> None:
        """Encode what is noted, in few large operations."""
        symbols, cdf = (noted[: self._noted].swapaxes(0, 1) for noted in (self._symbols, self._ends))  # (B, n), (B, n, 2)
        if not np.isfinite(cdf).all():
            raise InputError("the model gives no probabilities: its weights, or what it makes of these images, are not finite")
        k = symbols[:, :, None] + np.arange(2)
        inner = (k > 0) & (k < self.levels)  # the outermost boundaries stand fast
        n, spacing = on_grid(cdf, self.levels, self.bits)
        n = np.rint(n)
        found = np.where(inner, k + counts(cdf, n, spacing, self.levels, self.bits), np.where(k > 0, 2**self.bits, 0))
        for encoder, of_image in zip(self.encoders, found, strict=True):
            encoder.add(of_image[:, 0], of_image[:, 1])
        if self.epsilon is not None:
            for image, turn, side in np.argwhere(inner & ambiguous(cdf, self.levels, self.bits, self.epsilon)):
                place = image, turn, side
                correction = Correction(self.turn + int(turn), int(k[place]), int(n[place] % 2))
                self.corrections[image].append(correction)
        self.turn += self._noted
        self._noted = 0


class Decode:
    """Choose the symbols that `Encode` has kept.

    Args:
        likelihood: the law of a place.
        bits: of the tables.
        streams: of each image of the batch.

    Raises:
        InputError: a list of corrections is damaged.
    """

    def __init__(self, likelihood: Likelihood, bits: int, streams: list[Stream]) -> None:
        self.laws, self.levels, self.bits = laws_of(likelihood, bits, len(streams)), likelihood.levels, bits
        self.decoder = coder.LaneDecoder([stream.payload for stream in streams], bits)
        self.turn = 0
        self.corrections: dict[int, dict[int, list[Correction]]] = {}  # by turn and lane
        for lane, stream in enumerate(streams):
            for correction in unpack(stream.corrections, self.levels):
                self.corrections.setdefault(correction.turn, {}).setdefault(lane, []).append(correction)

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        self.laws.begin(params, x[:, :, i, j], c)
        quantiles = self.decoder.quantiles()
        symbols, shares = self.laws.find(quantiles)
        for lane, corrections in self.corrections.get(self.turn, {}).items():
            symbols[lane], *shares[lane] = self._corrected(lane, corrections, quantiles[lane])
        self.decoder.advance(shares)
        self.turn += 1
        return torch.from_numpy(symbols).to(x.device)

    def _corrected(self, lane: int, corrections: list[Correction], quantile: int) -> tuple[int, int, int]:
        """A symbol and its share, from its whole table."""
        cdf = self.laws.row(lane)
        table = boundaries(cdf[None], self.bits)[0]
        for _, k, parity in corrections:
            table[k] = corrected(cdf[k - 1], k, parity, self.levels, self.bits)
        # A correction is of a boundary of its symbol, which so is one of two. No search would do: where the symbols beside it are
        # all but impossible, their boundaries hang by the same hair, and are not corrected.
        symbol = k if table[k] <= quantile else k - 1
        return symbol, table[symbol], table[symbol + 1]
