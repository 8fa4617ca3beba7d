"""Encode and Decode: the two choosers of the raster loop that make a codec of a model.

Both get the params of the step path, make the same distribution function of them, and differ in who knows the symbol.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding import coder
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


class _Laws:
    """The distribution functions of a scan, in float64, whatever the network computes in."""

    def __init__(self, likelihood: Likelihood, bits: int) -> None:
        self.likelihood, self.levels, self.bits = likelihood, likelihood.levels, bits
        self.clock = likelihood.colours > 1

    def cdf(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        """P(X <= k), (B, levels)."""
        if c == 0 or self.clock:  # the other channels of a place have the same params
            self.place, self.symbols = self.likelihood.at(params.double()), x[:, :, i, j]
        return self.place.cdf(self.symbols, c)


class Encode(_Laws):
    """Keep every symbol and note the two ends of its share: after the scan, `streams` has the code of each image.

    Args:
        likelihood: the law of a place.
        bits: of the tables.
        epsilon: the error bound of the margins; None for no corrections, if the same machine decodes.
        images: in the batch.
    """

    def __init__(self, likelihood: Likelihood, bits: int, epsilon: float | None, images: int) -> None:
        super().__init__(likelihood, bits)
        self.epsilon = epsilon
        self.encoders = [coder.Encoder(bits) for _ in range(images)]
        self.corrections: list[list[Correction]] = [[] for _ in range(images)]
        self.turn = 0  # of the first symbol that is noted, but not encoded
        self._symbols: list[Tensor] = []
        self._ends: list[Tensor] = []

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        symbol = x[:, c, i, j].clone()
        ends = torch.stack([(symbol - 1).clamp_(min=0), symbol], 1)
        self._symbols.append(symbol)
        self._ends.append(self.cdf(params, x, i, j, c).gather(1, ends))
        if len(self._symbols) == AT_ONCE:
            self._encode()
        return symbol

    def streams(self) -> list[Stream]:
        """The code of each image.

        Raises:
            InputError: the model gave no probabilities somewhere.
        """
        if self._symbols:
            self._encode()
        packed = (pack(corrections, self.levels) for corrections in self.corrections)
        return [Stream(encoder.payload(), of_image) for encoder, of_image in zip(self.encoders, packed, strict=True)]

    def _encode(self) -> None:
        """Encode what is noted, in few large operations."""
        symbols = torch.stack(self._symbols, 1).cpu().numpy()  # (B, n)
        cdf = torch.stack(self._ends, 1).cpu().numpy()  # (B, n, 2)
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
        self.turn += len(self._symbols)
        self._symbols.clear()
        self._ends.clear()


class Decode(_Laws):
    """Choose the symbols that `Encode` has kept.

    Args:
        likelihood: the law of a place.
        bits: of the tables.
        streams: of each image of the batch.

    Raises:
        InputError: a list of corrections is damaged.
    """

    def __init__(self, likelihood: Likelihood, bits: int, streams: list[Stream]) -> None:
        super().__init__(likelihood, bits)
        self.decoder = coder.LaneDecoder([stream.payload for stream in streams], bits)
        self.turn, self.lanes = 0, np.arange(len(streams))
        self.corrections: dict[int, list[tuple[int, Correction]]] = {}
        for lane, stream in enumerate(streams):
            for correction in unpack(stream.corrections, self.levels):
                self.corrections.setdefault(correction.turn, []).append((lane, correction))

    def __call__(self, params: Tensor, x: Tensor, i: int, j: int, c: int) -> Tensor:
        cdf = self.cdf(params, x, i, j, c).cpu().numpy()
        table = boundaries(cdf, self.bits)
        for lane, (_, k, parity) in self.corrections.get(self.turn, ()):
            table[lane, k] = corrected(cdf[lane, k - 1], k, parity, self.levels, self.bits)
        # Counting, not searching: boundaries that are not the symbol's own may be out of order by a rounding error.
        symbol = (table[:, 1:-1] <= self.decoder.quantiles()[:, None]).sum(1)
        lower, upper = table[self.lanes, symbol], table[self.lanes, symbol + 1]
        # Only what no encoder has written, or for another model, finds an empty interval; the checksum of the pixels will tell.
        self.decoder.advance(lower, np.maximum(upper, lower + 1))
        self.turn += 1
        return torch.from_numpy(symbol).to(x.device)
