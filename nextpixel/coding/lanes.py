"""What is coded side by side: images are cut into tiles, and tiles of one size make groups, the lanes of one scan.

Each lane has its own stream, so that an image can be decoded without the others. In float64 with margins its code does not
depend on the other images in the group, nor on their number. In "fast" mode, float32 without margins, it may: groups then
always have the same width, filled up with copies of the last image, and are decoded as they were encoded.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from nextpixel.coding.entropy.choosers import Decode, Encode, Stream
from nextpixel.coding.entropy.margins import measured_epsilon
from nextpixel.coding.entropy.tables import table_bits
from nextpixel.compiled.instructions import NotRecordableError
from nextpixel.compiled.sample import cut, scan_steps
from nextpixel.conditions import encoder_of
from nextpixel.errors import InputError
from nextpixel.layers.pointwise import without_autocast
from nextpixel.models.base import AutoregressiveModel
from nextpixel.scan.raster import Choose, Progress, raster

LEAST_TILE = 8


Mode = Literal["float64", "fast"]
Chooser = TypeVar("Chooser", bound=Choose)
LANES = 64
MOST_LANES = 4096
# Images, and rows and columns of each, that the error bound is measured on.
MEASURED_IMAGES, MEASURED_SIDE = 4, 32
CHECKED_AT_ONCE = 4096  # of a `cond`
# What a core has at least: images, as many rows as a product does at once, and multiplications a step, for which it is worth to
# wait for the other cores' Python.
CORE_LANES, CORE_WORK = 8, 2**20


class Tile(NamedTuple):
    """Which image it belongs to, which of its tiles it is, and where it lies there."""

    image: int
    number: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def symbols(self, channels: int) -> int:
        """How many it has."""
        return channels * self.size[0] * self.size[1]


def tiles_of(image: int, size: tuple[int, int], tile: tuple[int, int] | None) -> list[Tile]:
    """The tiles of an image, row by row; those at its lower and right ends may be smaller. Without `tile` it is one.

    Example:
        >>> [tile.size for tile in tiles_of(0, (20, 30), (16, 16))]
        [(16, 16), (16, 14), (4, 16), (4, 14)]
    """
    steps = tile or size
    places = [(i, j) for i in range(0, size[0], steps[0]) for j in range(0, size[1], steps[1])]
    return [Tile(image, k, (i, min(i + steps[0], size[0])), (j, min(j + steps[1], size[1]))) for k, (i, j) in enumerate(places)]


def count_tiles(size: tuple[int, int], tile: tuple[int, int] | None) -> int:
    """How many tiles an image has, without making them.

    Example:
        >>> count_tiles((20, 30), (16, 16))
        4
    """
    return 1 if tile is None else -(-size[0] // tile[0]) * -(-size[1] // tile[1])


def groups(sizes: list[tuple[int, int]], tile: tuple[int, int] | None, lanes: int) -> list[list[Tile]]:
    """All tiles of images of these sizes in groups of equal size, at most `lanes` in each, in the order of their first images.

    Example:
        >>> [[tile.image for tile in group] for group in groups([(8, 8), (9, 9), (8, 8), (8, 8)], None, lanes=2)]
        [[0, 2], [3], [1]]
    """
    alike: dict[tuple[int, int], list[Tile]] = {}
    for image, size in enumerate(sizes):
        for one in tiles_of(image, size, tile):
            alike.setdefault(one.size, []).append(one)
    return [tiles[a : a + lanes] for tiles in alike.values() for a in range(0, len(tiles), lanes)]


def check_tile(tile: tuple[int, int] | None) -> None:
    """Refuse tiles whose pixels have hardly any neighbours to depend on.

    Raises:
        InputError: a side below 8.
    """
    if tile is not None and min(tile) < LEAST_TILE:
        raise InputError(f"tiles must be at least {LEAST_TILE}x{LEAST_TILE}, not {tile[0]}x{tile[1]}")


class LaneCoder:
    """A model in the arithmetic of a mode, which encodes and decodes groups.

    Args:
        model: any model whose condition does not see the image; it is copied, not changed.
        mode: "float64", or "fast" for float32.
        lanes: images in a group.
        epsilon: the error bound of the margins; None until `measure` has found it, and in fast mode.

    Raises:
        InputError: what is no model, or sees the image that it scores; a mode or number of lanes that makes no sense.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=4, features=4, blocks=1)
        >>> coder, x = LaneCoder(model), torch.randint(4, (5, 1, 8, 8))
        >>> coder.measure(x)
        >>> torch.equal(coder.decode(coder.encode(x), size=(8, 8)), x)
        True
    """

    def __init__(
        self, model: AutoregressiveModel, mode: Mode = "float64", lanes: int = LANES, epsilon: float | None = None
    ) -> None:
        if not isinstance(model, AutoregressiveModel):
            raise InputError(f"a codec needs an autoregressive image model, not {type(model).__name__}")
        if encoder_of(model.condition) is not None:
            raise InputError("a model with an encoder cannot compress: its condition is the image itself, which a decoder lacks")
        if mode not in get_args(Mode):
            raise InputError(f"mode must be {' or '.join(map(repr, get_args(Mode)))}, not {mode!r}")
        if not 1 <= lanes <= MOST_LANES:
            raise InputError(f"lanes must be from 1 to {MOST_LANES}, not {lanes}")
        if not all(t.isfinite().all() for t in (*model.parameters(), *model.buffers())):
            raise InputError("a codec needs a model whose weights are all finite")
        self.mode, self.lanes, self.epsilon = mode, lanes, epsilon
        self.dtype = torch.float64 if mode == "float64" else torch.float32
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        self.bits, self.parameters = table_bits(model.levels), sum(p.numel() for p in model.parameters())

    def measure(self, x: Tensor, h: Tensor | None = None) -> None:
        """Find the error bound, in float64, on some images (B, C, H, W) with their encoded condition."""
        if self.mode != "float64":
            return
        corner = slice(MEASURED_IMAGES), slice(None), slice(MEASURED_SIDE), slice(MEASURED_SIDE)
        with without_autocast(next(self.model.parameters())):
            self.epsilon = measured_epsilon(self.model, x[corner].long(), None if h is None else h[corner], self.bits)

    @torch.no_grad()
    def condition(self, cond: Any, batch: int, height: int, width: int) -> Tensor | None:
        """The encoded condition of images, in the arithmetic of this mode.

        Raises:
            InputError: as `model.encode_condition`.
        """
        with without_autocast(next(self.model.parameters())):
            return self.model.encode_condition(cond, batch, height, width)

    def encode(self, x: Tensor, h: Tensor | None = None, progress: Progress | None = None) -> list[Stream]:
        """The streams of images (B, C, H, W).

        Raises:
            InputError: the model gave no probabilities.
        """
        if self.mode == "float64" and self.epsilon is None:
            raise ValueError("measure() the error bound before encoding")

        def choose(images: slice) -> Encode:
            return Encode(self.model.likelihood, self.bits, self.epsilon, images.stop - images.start)

        encoded = self._scan(self._filled(x.long()), choose, self._filled(h), progress)
        return [stream for chunk in encoded for stream in chunk.streams()][: len(x)]

    def decode(
        self, streams: list[Stream], size: tuple[int, int], h: Tensor | None = None, progress: Progress | None = None
    ) -> Tensor:
        """The images of streams, int64 (B, C, H, W). What no encoder has written gives wrong images, not an error."""
        n, width = len(streams), self.width(len(streams))
        x = torch.zeros(width, self.model.shape[0], *size, dtype=torch.long, device=self.model.device)
        streams = [*streams, *streams[-1:] * (width - n)]

        def choose(images: slice) -> Decode:
            return Decode(self.model.likelihood, self.bits, self.epsilon, streams[images])

        self._scan(x, choose, self._filled(h), progress)
        return x[:n]

    def chunks(self, lanes: int) -> list[slice]:
        """How a group of so many lanes is cut for the cores."""
        work = lanes * self.parameters
        return cut(lanes, max(1, min(torch.get_num_threads(), lanes // CORE_LANES, work // CORE_WORK)))

    def _scan(self, x: Tensor, choose: Callable[[slice], Chooser], h: Tensor | None, progress: Progress | None) -> list[Chooser]:
        """Scan x in chunks, each with a chooser of its own: the steps are programs, where that can be, and else torch's."""
        if self.model.device.type == "cpu":
            chunks = self.chunks(len(x))
            choosers, hs = [choose(chunk) for chunk in chunks], [None if h is None else h[chunk] for chunk in chunks]
            try:
                scan_steps(self.model, list(zip((x[chunk] for chunk in chunks), choosers, hs, strict=True)), progress)
                return choosers
            except NotRecordableError as error:
                warnings.warn(f"{self.model.name} is coded step by step, because its scan is no program: {error}", stacklevel=2)
        chooser = choose(slice(0, len(x)))
        raster(self.model, x, chooser, h, progress)
        return [chooser]

    def width(self, n: int) -> int:
        """Lanes of the scan of so many images: a group of fast mode is filled up."""
        return n if self.mode == "float64" else self.lanes

    def _filled(self, t: Tensor | None) -> Tensor | None:
        """A batch brought to the width of a group, its own memory."""
        return None if t is None else torch.cat([t, t[-1:].expand(self.width(len(t)) - len(t), *t.shape[1:])])


class Conditions:
    """The encoded condition of any tiles of some images, image by image: h of all of them at once may be large.

    Args:
        coder: whose model has the condition.
        cond: for one image or for all, as `model.log_prob` takes it.
        sizes: (H, W) of each image.

    Raises:
        InputError: as `model.encode_condition`: `cond` is missing, superfluous, or does not fit images of these sizes.
    """

    def __init__(self, coder: LaneCoder, cond: Any, sizes: list[tuple[int, int]]) -> None:
        self.coder, self.sizes, self.condition = coder, sizes, coder.model.condition
        self._newest: tuple[int, Tensor] | None = None  # an image and its h: its tiles follow one another
        if self.condition is None:
            coder.condition(cond, len(sizes), *sizes[0])  # refuses one that is given
            return
        self.cond = self.condition.as_tensors(cond)
        if self.condition.length(self.cond) not in (None, len(sizes)):
            coder.condition(cond, len(sizes), *sizes[0])  # refuses it, before anything is encoded
        if self.condition.places:
            for image in {size: image for image, size in reversed(list(enumerate(sizes)))}.values():
                self._of_image(image)
            return
        for start in range(0, len(sizes), CHECKED_AT_ONCE):
            images = slice(start, min(start + CHECKED_AT_ONCE, len(sizes)))
            coder.condition(self.condition.select(self.cond, images), images.stop - images.start, 1, 1)

    @property
    def labels(self) -> list[int] | None:
        """The class of each image, which an archive stores, if the model is class-conditional and nothing else is given."""
        if self.condition is None or self.condition.source != "label" or not isinstance(self.cond, Tensor):
            return None
        return self.cond.expand(len(self.sizes)).tolist()

    def of(self, group: list[Tile]) -> Tensor | None:
        """h for the tiles of a group, (B, F, h, w), or None for an unconditional model."""
        if self.condition is None:
            return None
        return torch.cat([self._of_tile(tile) for tile in group])

    def _of_tile(self, tile: Tile) -> Tensor:
        h = self._of_image(tile.image)
        # What has no places is one number for all of them.
        sides = zip((tile.rows, tile.columns), h.shape[2:], strict=True)
        rows, columns = (slice(*side) if places > 1 else slice(None) for side, places in sides)
        return h[:, :, rows, columns].clone()  # of h, which may be larger, nothing is kept

    def _of_image(self, image: int) -> Tensor:
        if self._newest is None or self._newest[0] != image:
            self._newest = None
            cond = self.condition.select(self.cond, slice(image, image + 1))
            self._newest = image, self.coder.condition(cond, 1, *self.sizes[image])
        return self._newest[1]


def scan_rows(coder: LaneCoder, groups: list[list[Tile]]) -> int:
    """How many rows the scans of these groups have, over all passes."""
    return sum(-(-group[0].size[0] // stride) for group in groups for stride in coder.model.strides)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """With as many threads, since sums of other shares have other last digits."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
