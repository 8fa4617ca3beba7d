"""The range coder: intervals to bytes, one image at a time; bytes to symbols, all lanes at once.

The bit format is that of constriction's queue coder (Bamler 2022, arXiv:2201.01741; Martin 1979): 32-bit words, a state of 64
bits, probabilities of 24 bits.

    lower = 0, range = 2^64 - 1
    for each interval [lo, hi) of 2^24:   scale = range >> 24;  lower += scale lo;  range = scale (hi - lo)
                                          if range < 2^32: write the upper word of lower; shift both by one word

Encoding is a call of constriction for some thousand symbols. Decoding one symbol at a time by it would cost a call
for each lane and symbol, and building a model of 256 symbols each time: with the offset of the code point from `lower`, which
is all that a decoder needs, the same arithmetic is a dozen vector operations for all lanes.

A payload is the words, big-endian, without the zero bytes at its end, of the shortest number in the last interval: a decoder
reads zeros beyond the end.
"""

import constriction
import numpy as np

from nextpixel.coding.entropy import kernels

PRECISION = 24
_WORD, _STATE = 32, 64
_WHOLE = 2**PRECISION
_model = constriction.stream.model.Categorical(perfect=False)


class Encoder:
    """Encodes the intervals of one image, in any number of calls.

    Args:
        bits: of the tables.

    Example:
        >>> encoder = Encoder(bits=16)
        >>> encoder.add(np.array([0, 16384]), np.array([16384, 65536]))
        >>> encoder.payload().hex()
        '10'
    """

    def __init__(self, bits: int) -> None:
        self.bits, self.coder = bits, constriction.stream.queue.RangeEncoder()

    def add(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Encode a sequence of intervals [lower, upper) of 2^bits, integers (n,).

        Raises:
            ValueError: an interval is empty or not within 0 .. 2^bits, so that no decoder could find it; or it is the whole.
        """
        lo, hi = (np.asarray(side, dtype=np.int64) << (PRECISION - self.bits) for side in (lower, upper))
        if not ((lo >= 0) & (lo < hi) & (hi <= _WHOLE) & (hi - lo < _WHOLE)).all():
            raise ValueError(f"intervals must be some, but not all of 0..2^{self.bits}")
        self.coder.encode(*_three_symbols(lo, hi))

    def payload(self) -> bytes:
        """What is encoded so far: the number in the last interval that ends in most zeros."""
        words = self.coder.get_compressed()
        if not len(words):
            return b""
        position, (lower, size) = self.coder.pos()
        chosen = (lower + 2**_WORD - 1) >> _WORD << _WORD  # constriction's choice, whose upper word stands at `position`
        zeros = next(s for s in range(_STATE, -1, -8) if -(-lower >> s) << s < lower + size)
        shortest = -(-lower >> zeros) << zeros
        # As one number that ends with the two words of the state, so that a carry runs through all words.
        number = int.from_bytes(words.astype(">u4").tobytes(), "big") << _WORD * (position + 2 - len(words))
        return (number + shortest - chosen).to_bytes(4 * (position + 2), "big").rstrip(b"\0")


def _three_symbols(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, object, np.ndarray]:
    """The intervals as symbols of distributions over three: what is below, the interval, what is above.

    None may be empty. So an interval that begins at 0 is the first of the three and one that ends at the top the last, and
    one count is split off the rest, which has more than one, because a table's count is 2^(24 - bits) >= 2 of these.
    """
    first, last = lo == 0, hi == _WHOLE
    one = np.where(first, hi, np.where(last, 1, lo))
    two = np.where(first, _WHOLE - 1, np.where(last, lo, hi))
    symbols = np.where(first, 0, np.where(last, 2, 1)).astype(np.int32)
    # constriction gives each symbol one count and shares the rest in proportion: exactly so, where they sum to it already.
    shares = np.stack([one - 1, two - one - 1, _WHOLE - two - 1], 1).astype(np.float32)
    return symbols, _model, shares


class LaneDecoder:
    """Decodes as many payloads side by side, symbol by symbol: `quantiles`, then `advance` with the intervals that hold them.

    Args:
        payloads: of each lane.
        bits: of the tables.

    Example:
        >>> encoder = Encoder(bits=16)
        >>> encoder.add(np.array([5]), np.array([9]))
        >>> decoder = LaneDecoder([encoder.payload()], bits=16)
        >>> bool(5 <= decoder.quantiles()[0] < 9)
        True
    """

    def __init__(self, payloads: list[bytes], bits: int) -> None:
        self.bits = bits
        longest = 2 + max(-(-len(payload) // 4) for payload in payloads)
        padded = b"".join(payload.ljust(4 * longest, b"\0") for payload in payloads)
        self.words = np.frombuffer(padded, dtype=">u4").reshape(len(payloads), longest).astype(np.uint64)
        self.offset = self.words[:, 0] << np.uint64(_WORD) | self.words[:, 1]  # of the code point from `lower`
        self.range = np.full(len(payloads), 2**_STATE - 1, dtype=np.uint64)
        self.next = np.full(len(payloads), 2)
        self._quantiles = np.empty(len(payloads), dtype=np.int64)

    def quantiles(self) -> np.ndarray:
        """Where the code point of each lane lies, int64 (B,), until the next call: see `kernels.quantiles`."""
        kernels.quantiles(self.offset, self.range, self.bits, self._quantiles)
        return self._quantiles

    def advance(self, shares: np.ndarray) -> None:
        """Go on to the next symbol: intervals [lower, upper) of 2^bits, int64 (B, 2), not empty."""
        kernels.advance(self.offset, self.range, self.next, self.words, shares, self.bits)
