"""Limits of decoding: seconds and bytes that a file's length justifies, compared with a bound before any of them is spent.

Sizes declared in a file are never trusted, and the length of a stream does not bound the symbols in it: an image whose symbols
are all 0 is the number 0, of which no byte is written. So what a scan costs is computed before it runs. A scan of B images of H
x W places takes time for its recording, for each step, and for the arithmetic; and memory for each column, each column of a
lane, and where a condition is a map for each place. All of it follows from the shapes of the weights:

    seconds = tensors record + H W (C (place + B lane) + tensors instruction + B (parameters multiply + K level))
    bytes   = chunks tensors (W views + program) + B W (numbers of all layers) + B H W (symbols, and maps of the condition)

The constants are rounded from measurements on two cores of an AMD EPYC; `benchmarks/cost.py` measures again. Seconds were right
within a factor of 2, bytes are an upper bound. The bound, scan by scan:

    what a scan is charged with     its seconds, less 80 µs for each byte of its streams
    free                            3 s of charges and of the longest scan together, and 192 MB for any scan

The checksums of a scan's tiles are compared before the next one begins: bytes that no encoder wrote end with the first scan.
For a file of more than 1 MB both bounds grow in proportion. A model that is given, not embedded, has a higher one, because its
speed does not depend on the file: what two groups of 64 images of its own size take, and for a byte the time for 8 of their
symbols.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nextpixel.coding.format.index import Entry
from nextpixel.coding.lanes import LaneCoder, Tile
from nextpixel.compiled.recorder import PERIODS
from nextpixel.errors import InputError
from nextpixel.layers.conditioning import ConditionBias, Upsampler
from nextpixel.models import AutoregressiveModel, PixelCNNpp

SECONDS, MEMORY, MEGABYTE = 3.0, 192e6, 2**20
SECONDS_FOR_A_BYTE, SYMBOLS_FOR_A_BYTE = 80e-6, 8  # of streams
MOST = 10  # times MEMORY
TRUSTED_LANES = 64
RESULTS = 2  # copies of what is decoded
# Seconds. For a tensor of weights: to record a column of it, and to run what was recorded once. For a multiplication, and for a
# level of a categorical distribution. For a weight of an embedded model, to build it.
RECORD, INSTRUCTION, MULTIPLY, LEVEL, BUILD = 100e-6, 1e-6, 0.08e-9, 12e-9, 1.5e-3
# For a symbol of a group, and of a lane, whatever the network.
PLACE, LANE = 50e-6, 0.7e-6
# Columns that are recorded of a row, for each column after which they repeat; rows that repeat later are no programs, and torch's
# calls take so many times as long as instructions.
RECORDED, LONGEST_PERIOD, CALL = 6, PERIODS[-1], 15
# Bytes, for a tensor of weights: for a column the views of a scan's memory, and for one that is recorded its instructions.
VIEWS, PROGRAM = 200, 1000
OF_A_RUN, OF_A_BYTE, OF_A_SYMBOL = 64, 4, 32  # of thresholds; of the longest payload, in each lane; of a group


class Cost(NamedTuple):
    """Seconds of a processor, and bytes besides those of the model."""

    seconds: float
    memory: float


class Costs:
    """The costs of a model's scans, from the shapes of its weights alone.

    Args:
        model: whose dtype is that of the scans.

    Example:
        >>> import nextpixel
        >>> costs = Costs(nextpixel.PixelCNN(shape=(1, 8, 8), levels=4, features=4, blocks=1))
        >>> costs.scan((32, 32), lanes=64).seconds < 1 < costs.scan((1, 2**20), lanes=1).seconds
        True
    """

    def __init__(self, model: AutoregressiveModel) -> None:
        self.itemsize = next(model.parameters()).element_size()
        self.channels, self.colours = model.shape[0], model.likelihood.colours
        networks = list(model.networks) if len(model.strides) > 1 else [model]
        self.stages = [_stage(network, stride) for network, stride in zip(networks, model.strides, strict=True)]
        upsamplers = [module for module in model.modules() if isinstance(module, Upsampler)]
        # Convolutions over a whole image: their windows, their results, and these once more where an operation follows.
        self.of_place = sum(
            sum(weight[0].numel() + 4 * max(weight.shape[:2]) for weight in upsampler.parameters() if weight.dim() > 1)
            for upsampler in upsamplers
        )
        # Of a lane: the distribution of a place, several times over.
        # More levels than a softmax can have belong to distributions that are computed at single symbols.
        self.of_lane = 2 * model.likelihood.params + 6 * min(model.levels, 8192)
        self.cdf = LEVEL * model.levels * self.channels if model.likelihood.coding == "cdf" else 0.0

    def scan(self, size: tuple[int, int], lanes: int, chunks: int = 1, payload: int = 0, runs: int = 0) -> Cost:
        """The cost of decoding a group.

        Args:
            size: (H, W) of its images, or tiles.
            lanes: how many there are.
            chunks: that they are cut into, each with a program of its own.
            payload: bytes of the longest; the others are brought to its length.
            runs: of thresholds, over all lanes.
        """
        height, width = size
        memory = lanes * (OF_A_SYMBOL * self.channels * height * width + OF_A_BYTE * payload + 8 * self.of_lane) + OF_A_RUN * runs
        seconds = 0.0
        for stage in self.stages:
            height, width = (-(-side // stage.stride) for side in size)
            tensors, columns = stage.tensors * self.colours, width + 1  # and what does not grow with the width
            program = stage.period <= LONGEST_PERIOD
            recorded = min(width, RECORDED * stage.period) if program else 0
            instruction = INSTRUCTION if program else CALL * INSTRUCTION
            of_symbols = self.channels * (PLACE + lanes * LANE)
            arithmetic = lanes * (MULTIPLY * stage.parameters + self.cdf)
            seconds += chunks * RECORD * tensors * recorded
            seconds += height * width * (of_symbols + instruction * stage.instructions * self.colours + arithmetic)
            memory += chunks * tensors * (columns * VIEWS + recorded * PROGRAM)
            memory += self.itemsize * lanes * (columns * stage.of_column + height * width * (stage.of_place + self.of_place))
        return Cost(seconds, memory)


@dataclass(frozen=True)
class _Stage:
    """What counts of a network that scans a grid: weights, these and their numbers by the share of the places that they are for,
    and the numbers that a column or a place keeps."""

    stride: int
    period: int  # columns after which the calls repeat
    tensors: int
    instructions: float
    parameters: float
    of_column: int
    of_place: int


def _stage(network: AutoregressiveModel, stride: int) -> _Stage:
    weights = [(_share(network, name), weight) for name, weight in network.named_parameters()]
    kernels = [weight for name, weight in network.named_parameters() if weight.dim() > 1 and not name.startswith("encode.")]
    maps = network.condition is not None and network.condition.places
    biases = [module.conv for module in network.modules() if isinstance(module, ConditionBias)]
    return _Stage(
        stride,
        period=2 ** (network.stages - 1) if isinstance(network, PixelCNNpp) else 1,
        tensors=len(weights),
        instructions=sum(share for share, _ in weights),
        parameters=sum(share * weight.numel() for share, weight in weights),
        of_column=sum(kernel[0].numel() // 2 + 2 * kernel.shape[0] for kernel in kernels),
        of_place=2 * sum(conv.out_channels + conv.in_channels for conv in biases) if maps else 0,
    )


def _share(network: AutoregressiveModel, name: str) -> float:
    """Of the places, those that a weight is for: a quarter for each coarser resolution of a PixelCNN++."""
    part, _, rest = name.partition(".")
    resolution = rest.partition(".")[0]
    if not isinstance(network, PixelCNNpp) or not resolution.isdigit():
        return 1.0
    return 0.25 ** int(resolution) if part in ("up", "down") else 1.0


class Allowance:
    """How the images of an archive are decoded, if they may be.

    Args:
        entries: of the archive.
        limit: symbols (pixels times channels) that may be decoded, however long they take; None to compare costs.
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
        """Refuse more symbols than the limit.

        Raises:
            InputError: too many.
        """
        if self.limit is not None and symbols > self.limit:
            raise self._too_much(symbols, f"beyond the limit of {self.limit}")

    def scans(self, groups: Iterable[list[Tile]], coder: LaneCoder, given: bool, symbols: int, results: int) -> list[list[Tile]]:
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
            own = costs.scan(coder.model.shape[1:], TRUSTED_LANES, len(coder.chunks(TRUSTED_LANES)))
            seconds, memory = max(seconds, 2 * own.seconds), max(memory, own.memory)
            for_a_byte = max(for_a_byte, own.seconds * SYMBOLS_FOR_A_BYTE / symbols_of_own)
        if self.limit is None and RESULTS * results > memory:
            raise self._too_much(symbols, f"images of {results / 1e6:.0f} MB")
        for group in groups:
            for scan in self._cut(group, coder, costs, Cost(seconds / 2, memory)):
                cost = self._cost(scan, coder, costs)
                if self.limit is None and cost.memory > memory:
                    raise self._too_much(symbols, f"whose scan takes some {cost.memory / 1e6:.0f} MB")
                stored = sum(self._stored(tile) for tile in scan)
                charged += max(0.0, cost.seconds - for_a_byte * stored)
                longest = max(longest, cost.seconds)
                if self.limit is None and charged + longest > seconds:
                    raise self._too_much(symbols, f"which takes more than {seconds:.0f} s")
                found.append(scan)
        return found

    def _cut(self, group: list[Tile], coder: LaneCoder, costs: Costs, free: Cost) -> list[list[Tile]]:
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

    def _cost(self, group: list[Tile], coder: LaneCoder, costs: Costs, lanes: int | None = None) -> Cost:
        lanes = coder.width(lanes or len(group))
        stored = [self.entries[tile.image].tiles[tile.number] for tile in group]
        payload, runs = max(tile.payload for tile in stored), sum(tile.thresholds for tile in stored)
        return costs.scan(group[0].size, lanes, len(coder.chunks(lanes)), payload, runs)

    def _stored(self, tile: Tile) -> int:
        return self.entries[tile.image].tiles[tile.number].stored

    def _too_much(self, symbols: int, what: str) -> InputError:
        return InputError(
            f"{self.where} declares {symbols} symbols in {self.size} bytes, {what}: if you trust it, "
            f"decode with a limit of {symbols}"
        )
