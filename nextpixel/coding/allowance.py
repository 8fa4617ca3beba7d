"""What is decoded unasked: as much as a file's length justifies, in seconds and bytes, before any of it is spent.

The length of a stream does not bound the symbols in it: an image whose symbols are all 0 is the number 0, of which no byte is
written. So a declared size is compared with what it costs (`nextpixel.coding.cost`), scan by scan:

    what a scan is charged with     its seconds, less 80 µs for each byte of its streams
    free                            3 s of charges and of the longest scan together, and 192 MB for any scan

The checksums of a scan's tiles are compared before the next one begins: bytes that no encoder wrote end with the first scan. For
a file of more than 1 MB both grow in proportion. A model that is given, not embedded, is trusted more, because its speed does not
depend on the file: with what two groups of 64 images of its own size take, and a byte with the time for 8 of their symbols.
"""

import math
from collections.abc import Iterable

from nextpixel.coding.cost import BUILD, Cost, Costs
from nextpixel.coding.index import Entry
from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.plan import Part
from nextpixel.errors import InputError

SECONDS, MEMORY, MEGABYTE = 3.0, 192e6, 2**20
SECONDS_FOR_A_BYTE, SYMBOLS_FOR_A_BYTE = 80e-6, 8  # of streams
MOST = 10  # times MEMORY
TRUSTED_LANES = 64
RESULTS = 2  # copies of what is decoded


class Allowance:
    """How the images of an archive are decoded, if they may be.

    Args:
        entries: of the archive.
        limit: symbols (pixels times channels) that are asked for, however long they take; None to compare costs.
        size: bytes of the file.
        where: what messages call it.
    """

    def __init__(self, entries: list[Entry], limit: int | None, size: int, where: str) -> None:
        self.entries, self.limit, self.size, self.where = entries, limit, size, where
        self.seconds, self.memory = SECONDS * max(1.0, size / MEGABYTE), MEMORY * min(max(1.0, size / MEGABYTE), MOST)
        self.charged = 0.0

    def check_model(self, weights: int, symbols: int) -> None:
        """Refuse to build an embedded model that takes longer than the images may.

        Raises:
            InputError: too many weights.
        """
        if self.limit is None and BUILD * weights > self.seconds:
            raise self._too_much(symbols, f"with a model of {weights} weights")
        self.charged += BUILD * weights

    def check_symbols(self, symbols: int) -> None:
        """Refuse more symbols than were asked for.

        Raises:
            InputError: too many.
        """
        if self.limit is not None and symbols > self.limit:
            raise self._too_much(symbols, f"beyond the limit of {self.limit}")

    def scans(self, groups: Iterable[list[Part]], coder: LaneCoder, given: bool, symbols: int, results: int) -> list[list[Part]]:
        """The groups in scans that fit into the memory that is free: in float64 an image does not depend on those beside it.

        Args:
            groups: that are to be decoded.
            coder: with their model.
            given: whether the model is the user's, not the archive's.
            symbols: that the scans have, for messages.
            results: bytes of the images.

        Raises:
            InputError: they cost more than is free.
        """
        costs, charged, longest, found = Costs(coder.model), self.charged, 0.0, []
        seconds, memory, for_a_byte = self.seconds, self.memory, SECONDS_FOR_A_BYTE
        if given:
            symbols_of_own = TRUSTED_LANES * math.prod(coder.model.shape)
            own = costs.scan(coder.model.shape[1:], TRUSTED_LANES, len(coder.pieces(TRUSTED_LANES)))
            seconds, memory = max(seconds, 2 * own.seconds), max(memory, own.memory)
            for_a_byte = max(for_a_byte, own.seconds * SYMBOLS_FOR_A_BYTE / symbols_of_own)
        if self.limit is None and RESULTS * results > memory:
            raise self._too_much(symbols, f"images of {results / 1e6:.0f} MB")
        for group in groups:
            for scan in self._cut(group, coder, costs, Cost(seconds / 2, memory)):
                cost = self._cost(scan, coder, costs)
                if self.limit is None and cost.memory > memory:
                    raise self._too_much(symbols, f"whose scan takes some {cost.memory / 1e6:.0f} MB")
                stored = sum(self._stored(part) for part in scan)
                charged += max(0.0, cost.seconds - for_a_byte * stored)
                longest = max(longest, cost.seconds)
                if self.limit is None and charged + longest > seconds:
                    raise self._too_much(symbols, f"which takes more than {seconds:.0f} s")
                found.append(scan)
        return found

    def _cut(self, group: list[Part], coder: LaneCoder, costs: Costs, free: Cost) -> list[list[Part]]:
        """A group in equal scans of fewer lanes, where that makes them fit."""
        if coder.mode == "fast":
            return [group]  # which is decoded as it was encoded
        lanes = len(group)
        while lanes > 1 and self._cost(group, coder, costs, lanes).memory > free.memory:
            lanes = -(-lanes // 2)
        fewer = lanes
        while fewer > 1 and self._cost(group, coder, costs, fewer).seconds > free.seconds:
            fewer = -(-fewer // 2)
        if self._cost(group, coder, costs, fewer).seconds <= free.seconds:
            lanes = fewer
        return [group[start : start + lanes] for start in range(0, len(group), lanes)]

    def _cost(self, group: list[Part], coder: LaneCoder, costs: Costs, lanes: int | None = None) -> Cost:
        lanes = coder.width(lanes or len(group))
        tiles = [self.entries[part.image].tiles[part.tile] for part in group]
        payload, runs = max(tile.payload for tile in tiles), sum(tile.thresholds for tile in tiles)
        return costs.scan(group[0].size, lanes, len(coder.pieces(lanes)), payload, runs)

    def _stored(self, part: Part) -> int:
        return self.entries[part.image].tiles[part.tile].stored

    def _too_much(self, symbols: int, what: str) -> InputError:
        return InputError(
            f"{self.where} declares {symbols} symbols in {self.size} bytes, {what}: if you trust it, "
            f"decode with a limit of {symbols}"
        )
