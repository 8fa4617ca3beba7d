"""Archives as Python sees them: `compress`, `decompress`, and `Archive`, which reads one image without decoding the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from nextpixel.coding.entropy.choosers import Stream
from nextpixel.coding.format.container import split
from nextpixel.coding.format.embedded import count_weights, fingerprint, unpack_model
from nextpixel.coding.format.index import Entry, checksum
from nextpixel.coding.lanes import LANES, Conditions, LaneCoder, Mode, Tile, groups, scan_rows, threads
from nextpixel.coding.limits import Allowance
from nextpixel.coding.writer import Settings, Writer
from nextpixel.errors import InputError
from nextpixel.files import read_bytes
from nextpixel.models import AutoregressiveModel
from nextpixel.progress import Parts, Progress


def compress(
    model: AutoregressiveModel,
    x: Tensor | Sequence[Tensor],
    cond: Any = None,
    *,
    names: Sequence[str] | None = None,
    mode: Mode = "float64",
    lanes: int = LANES,
    tile: tuple[int, int] | None = None,
    embed: bool = False,
    verify: bool = True,
    progress: Progress | None = None,
) -> bytes:
    """Images as an archive, of about `model.bits_per_dim` bits for each of their numbers, that `decompress` restores exactly.

    Args:
        model: any model whose condition does not see the image.
        x: (N, C, H, W) integers, or N images (C, H, W) of any sizes.
        cond: the condition, for one image or for all. An archive holds labels; any other condition must be given again.
        names: of the images, plain file names without ending; by default their numbers.
        mode: "float64" decodes on other machines too; "fast" (float32) only on this one, with the same versions.
        lanes: images coded side by side.
        tile: (height, width): larger images are cut into tiles, which are coded side by side and do not depend on each other.
        embed: put the model into the archive.
        verify: decode everything again before it counts as done.
        progress: called with (rows finished, rows) after each row of each scan.

    Raises:
        InputError: images, names, condition or settings that cannot be used, or a model that cannot compress.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=4, features=4, blocks=1)
        >>> x = torch.randint(4, (3, 1, 8, 8))
        >>> data = nextpixel.compress(model, x)
        >>> torch.equal(nextpixel.decompress(model, data), x)
        True
    """
    names = [str(n) for n in range(len(x))] if names is None else names
    if len(names) != len(x):
        raise InputError(f"{len(x)} images need as many names, not {len(names)}")
    return Writer(model, list(x), names, cond, Settings(mode, lanes, tile, embed, verify)).write(progress)


def decompress(
    model: AutoregressiveModel | None, data: bytes, cond: Any = None, limit: int | None = None
) -> Tensor | list[Tensor]:
    """The images of an archive: (N, C, H, W) if they have one size, else a list; uint8 up to 256 levels and int64 above.

    Args:
        model: that they were compressed with; None if the archive holds it.
        data: from `compress`, or an archive's bytes.
        cond: as for `compress`, but for labels, which are in the archive.
        limit: as for `Archive`.

    Raises:
        InputError: no archive, a damaged one, one of another version, model or machine, one that declares more symbols than the
            limit, or images that do not decode to the pixels that were encoded.
    """
    with Archive(data, model, cond, limit) as archive:
        found = dict(archive)
        images = [found[name] for name in archive.names]
    return torch.stack(images) if len({x.shape for x in images}) == 1 else images


class Archive:
    """An open archive; its images are decoded when they are read.

    Args:
        data: its bytes.
        model: that it was made with; None if the archive holds it, or for a look at its header and index.
        cond: as for `compress`, but for labels.
        limit: symbols (pixels times channels) that may be decoded at once, however long that takes and whatever memory it needs.
            Without one, what the file's length justifies (`nextpixel.coding.limits`).
        where: what messages call it.

    Attributes:
        header: how it was made.
        entries: the index, an entry for each image.
        names: of the images.

    Raises:
        InputError: as `decompress`.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=4, features=4, blocks=1)
        >>> data = nextpixel.compress(model, torch.zeros(2, 1, 8, 8, dtype=torch.long), names=["night", "fog"], embed=True)
        >>> with Archive(data) as archive:
        ...     archive.names, archive.read("fog").shape
        (['night', 'fog'], torch.Size([1, 8, 8]))
    """

    def __init__(
        self,
        data: bytes,
        model: AutoregressiveModel | None = None,
        cond: Any = None,
        limit: int | None = None,
        where: str = "the archive",
    ) -> None:
        contents = split(data, where)
        self.where, self.cond, self.limit = where, cond, limit
        self.header, self.entries = contents.header, contents.entries
        self._streams, self._packed = contents.streams, contents.model
        self.names = [entry.name for entry in self.entries]
        self._numbers = {name: n for n, name in enumerate(self.names)}
        self._given, self._coder = model, None
        self._allowance = Allowance(self.entries, limit, len(data), where)

    @classmethod
    def open(
        cls, path: str | Path, model: AutoregressiveModel | None = None, cond: Any = None, limit: int | None = None
    ) -> "Archive":
        """The archive in a file.

        Raises:
            InputError: as `Archive`, or the file cannot be read.
        """
        return cls(read_bytes(path), model, cond, limit, str(path))

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the bytes and the model; the header and the index stay readable."""
        self._streams, self._packed, self._given, self._coder = None, b"", None, None

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    @property
    def model(self) -> AutoregressiveModel:
        """The model that it decodes with, in its arithmetic.

        Raises:
            InputError: it is not the one that the archive was made with, or missing, or this machine is another.
        """
        return self._model_coder().model

    @property
    def embedded(self) -> int:
        """Bytes of the model that the archive holds; 0 if it holds none."""
        return len(self._packed)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """(name, image) of all images, each as soon as it is whole: images of one size come in groups."""
        yield from self.images()

    def rows(self, names: Sequence[str] | None = None) -> int:
        """How often `images` reports progress."""
        return scan_rows(self._model_coder(), self._scans(names))

    def read(self, name: str) -> Tensor:
        """One image, (C, H, W); in float64 mode no other is decoded.

        Raises:
            InputError: there is no such image, or as `decompress`.
        """
        return next(x for found, x in self.images([name]) if found == name)

    def images(self, names: Sequence[str] | None = None, progress: Progress | None = None) -> Iterator[tuple[str, Tensor]]:
        """(name, image) of these or of all images, each as soon as it is whole.

        Raises:
            InputError: there is no such image, or as `decompress`.
        """
        coder, plan = self._model_coder(), self._scans(names)
        progress = Parts(progress, scan_rows(coder, plan))
        conditions = Conditions(coder, self._cond(), [entry.size for entry in self.entries])
        wanted = set(self.names if names is None else names)
        missing = {n: len(entry.tiles) for n, entry in enumerate(self.entries)}
        unfinished: dict[int, Tensor] = {}
        for group in plan:
            with threads(self.header.made["threads"] if self.header.mode == "fast" else None):
                streams = [self._stream(tile) for tile in group]
                decoded = coder.decode(streams, group[0].size, conditions.of(group), progress).to("cpu", self._dtype)
            for tile, pixels in zip(group, decoded, strict=True):
                entry = self.entries[tile.image]
                if entry.name not in wanted:
                    continue
                self._check(entry, tile, pixels)
                x = unfinished.setdefault(tile.image, torch.empty(self.header.channels, *entry.size, dtype=self._dtype))
                x[:, slice(*tile.rows), slice(*tile.columns)] = pixels
                missing[tile.image] -= 1
                if not missing[tile.image]:
                    yield entry.name, unfinished.pop(tile.image)

    def _scans(self, names: Sequence[str] | None) -> list[list[Tile]]:
        """What is decoded side by side, for these or for all images."""
        for name in names or ():
            if name not in self._numbers:
                raise InputError(f"{self.where} has no image {name!r}: it has {_some(self.names)}")
        wanted = set(range(len(self.names)) if names is None else (self._numbers[name] for name in names))
        fast, lanes = self.header.mode == "fast", self.header.lanes
        plan = []
        for group in groups([entry.size for entry in self.entries], self.header.tile, lanes):
            mine = [tile for tile in group if tile.image in wanted]
            if mine:
                plan.append(group if fast else mine)  # in fast mode as they were encoded, and filled up
        sizes = [(group[0].size, lanes if fast else len(group)) for group in plan]
        symbols = sum(height * width * side_by_side for (height, width), side_by_side in sizes) * self.header.channels
        self._allowance.check_symbols(symbols)
        coder = self._model_coder(symbols)
        pixels = sum(self.entries[n].size[0] * self.entries[n].size[1] for n in wanted)
        results = pixels * self.header.channels * self._dtype.itemsize
        return self._allowance.scans(plan, coder, self._given is not None, symbols, results)

    def _stream(self, tile: Tile) -> Stream:
        stored = self.entries[tile.image].tiles[tile.number]
        middle = stored.offset + stored.thresholds
        return Stream(bytes(self._streams[middle : middle + stored.payload]), bytes(self._streams[stored.offset : middle]))

    @property
    def _symbols(self) -> int:
        return sum(entry.size[0] * entry.size[1] for entry in self.entries) * self.header.channels

    @property
    def _dtype(self) -> torch.dtype:
        return torch.uint8 if self.header.levels <= 256 else torch.int64

    def _check(self, entry: Entry, tile: Tile, pixels: Tensor) -> None:
        if checksum(pixels.numpy(), self.header.levels) != entry.tiles[tile.number].crc:
            raise InputError(
                f"{self.where}: {entry.name} did not decode to the pixels that were encoded; it was made with "
                f"{', '.join(f'{name} {value}' for name, value in self.header.made.items())}"
            )

    def _cond(self) -> Any:
        coder = self._model_coder()
        if coder.model.condition is None or coder.model.condition.source != "label":
            return self.cond
        labels = [entry.label for entry in self.entries]
        if labels and set(labels) == {None} and self.cond is not None:
            return self.cond  # of labels and what is known, which no archive stores
        if self.cond is not None:
            raise InputError(f"{self.where} holds the labels of its images: no condition must be given")
        if None in labels:
            raise InputError(f"{self.where} is of a class-conditional model, but does not hold the labels of all its images")
        return torch.tensor(labels)

    def _model_coder(self, symbols: int | None = None) -> LaneCoder:
        if self._coder is None:
            if self._streams is None:
                raise ValueError("this archive is closed")
            self.header.check_machine(self.where)
            model = self._given or self._unpacked(symbols)
            own = fingerprint(model)
            if own != self.header.fingerprint:
                raise InputError(
                    f"{self.where} was made with another model: a {self.header.model} with fingerprint "
                    f"{self.header.fingerprint[:16]}, not this {model.name} with {own[:16]}"
                )
            if (model.shape[0], model.levels) != (self.header.channels, self.header.levels):
                raise InputError(f"{self.where} is of images with other channels or levels than its model's")
            self._coder = LaneCoder(model, self.header.mode, self.header.lanes, self.header.epsilon)
            if self._coder.bits != self.header.bits:
                raise InputError(f"{self.where} has tables of {self.header.bits} bits: expected {self._coder.bits}")
        return self._coder

    def _unpacked(self, symbols: int | None) -> AutoregressiveModel:
        if not self._packed:
            raise InputError(f"{self.where} does not hold its model, a {self.header.model}: give the one it was made with")
        self._allowance.check_model(count_weights(self._packed, self.where), symbols or self._symbols)
        return unpack_model(self._packed, self.where)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
