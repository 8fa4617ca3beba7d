"""Compressing images to an archive, group by group; each group is decoded again at once, before it counts as done."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel.coding.entropy.choosers import Stream
from nextpixel.coding.format.container import Contents, Header, join
from nextpixel.coding.format.embedded import fingerprint, pack_model
from nextpixel.coding.format.index import Entry, StoredTile, check_names, check_size, checksum, pack_index
from nextpixel.coding.format.journal import Journal
from nextpixel.coding.lanes import LANES, Conditions, LaneCoder, Mode, Tile, check_tile, groups, scan_rows, tiles_of
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel
from nextpixel.progress import Parts, Progress

# No encoder writes more: for a symbol the bits of a table's count, and a byte of thresholds; and what a range coder ends with.
MOST_BYTES, SPARE = 5, 64


@dataclass(frozen=True)
class Settings:
    """How an archive is made.

    Args:
        mode: "float64" decodes on other machines too; "fast" (float32) only where it was made.
        lanes: images coded side by side.
        tile: (height, width): larger images are cut into tiles, which are coded side by side and do not depend on each other.
        embed: put the model into the archive.
        verify: decode everything again before it is written.
    """

    mode: Mode = "float64"
    lanes: int = LANES
    tile: tuple[int, int] | None = None
    embed: bool = False
    verify: bool = True


class Writer:
    """Makes the archive of some images.

    Args:
        model: whose distribution they are coded with; not changed.
        images: (C, H, W) integers each, of any sizes.
        names: of the images, plain (or relative paths of plain names) and different.
        cond: their condition, for one or for all, as `model.log_prob` takes it.
        settings: how.

    Raises:
        InputError: no images, or images, names, condition or settings that cannot be used; and what `LaneCoder` refuses.
    """

    def __init__(
        self,
        model: AutoregressiveModel,
        images: Sequence[Tensor],
        names: Sequence[str],
        cond: Any = None,
        settings: Settings = Settings(),
    ) -> None:
        check_tile(settings.tile)
        if isinstance(model, AutoregressiveModel):
            model = copy.deepcopy(model)  # another thread may go on training it: all that follows is of one moment
        self.settings, self.coder = settings, LaneCoder(model, settings.mode, settings.lanes)
        if not len(images):
            raise InputError("there are no images to compress")
        check_names(names)
        self.images = [_checked(model, x, name) for x, name in zip(images, names, strict=True)]
        sizes = [tuple(x.shape[1:]) for x in self.images]
        self.groups = groups(sizes, settings.tile, settings.lanes)
        self.conditions = Conditions(self.coder, cond, sizes)
        labels = self.conditions.labels or [None] * len(sizes)
        self.entries = [Entry(name, size, label, ()) for name, size, label in zip(names, sizes, labels, strict=True)]
        for n, x in enumerate(self.images):
            tiles = tiles_of(n, sizes[n], settings.tile)
            crcs = [checksum(x[:, slice(*tile.rows), slice(*tile.columns)].numpy(), model.levels) for tile in tiles]
            self.entries[n] = replace(self.entries[n], tiles=tuple(StoredTile(crc, 0, 0, 0) for crc in crcs))
        self.model = pack_model(model) if settings.embed else b""
        self.header = Header(
            model=model.name,
            fingerprint=fingerprint(model),
            channels=model.shape[0],
            levels=model.levels,
            mode=settings.mode,
            lanes=settings.lanes,
            tile=settings.tile,
            bits=self.coder.bits,
            epsilon=None,
        )

    def rows(self, finished: int = 0) -> int:
        """How often `write` reports progress, if so many groups are finished already: these are only decoded."""
        rest = self.groups[finished:]
        return scan_rows(self.coder, self.groups[:finished]) + (2 if self.settings.verify else 1) * scan_rows(self.coder, rest)

    def work(self) -> bytes:
        """SHA-256 of all that decides what will be written, but for the error bound, which is measured."""
        settings = repr((self.settings.verify, self.settings.embed))
        return hashlib.sha256(b"\0".join([self.header.to_json(), pack_index(self.entries), settings.encode()])).digest()

    def write(self, progress: Progress | None = None, journal: Journal | None = None) -> bytes:
        """The archive.

        Args:
            progress: called with (rows finished, rows) after each row of each scan.
            journal: of an interrupted `write` of the same `work`: its groups that decode to their images are not done again.
                New ones are noted in it.

        Raises:
            InputError: the model gives no probabilities, or decoding gives other pixels; or the journal cannot be written.
        """
        if self.coder.epsilon is None:
            self.measure()
        listed = len(journal.groups) if journal and journal.epsilon == self.coder.epsilon else 0
        report = Parts(progress, self.rows(finished=listed))
        done = self._sound(journal, report) if journal else []
        if len(done) < listed:  # more is left than the journal lists: the count begins anew
            report = Parts(progress, self.rows())
        if journal:
            journal.begin(self.coder.epsilon, len(done))
        found: dict[tuple[int, int], Stream] = {}
        for number, group in enumerate(self.groups):
            if number < len(done):
                streams = done[number]
            else:
                streams = self._code(group, report)
                if journal:
                    journal.add(streams)
            found |= {(tile.image, tile.number): stream for tile, stream in zip(group, streams, strict=True)}
        return self._join([found[place] for place in sorted(found)], sorted(found))

    def _sound(self, journal: Journal, progress: Progress | None) -> list[list[Stream]]:
        """The first groups of a journal that decode to their images, under this error bound."""
        sound: list[list[Stream]] = []
        if journal.epsilon != self.coder.epsilon:
            return sound
        for group, streams in zip(self.groups, journal.groups, strict=False):
            most = MOST_BYTES * group[0].symbols(self.header.channels) + SPARE
            if len(streams) != len(group) or max(len(payload) + len(thresholds) for payload, thresholds in streams) > most:
                break
            x, h = self._batch(group), self.conditions.of(group)
            if not torch.equal(self.coder.decode(streams, group[0].size, h, progress), x):
                break
            sound.append(streams)
        return sound

    def measure(self) -> None:
        """Find the error bound, as `write` does if it is not known."""
        group = self.groups[0]
        self.coder.measure(self._batch(group), self.conditions.of(group))

    def _code(self, group: list[Tile], progress: Progress | None) -> list[Stream]:
        x, h = self._batch(group), self.conditions.of(group)
        streams = self.coder.encode(x, h, progress)
        if self.settings.verify:
            wrong = (self.coder.decode(streams, group[0].size, h, progress) != x).flatten(1).any(1)
            if wrong.any():
                name = self.entries[group[int(wrong.int().argmax())].image].name
                raise InputError(f"{name} was decoded to other pixels: this machine does not compute the same thing twice")
        return streams

    def _batch(self, group: list[Tile]) -> Tensor:
        tiles = [self.images[tile.image][:, slice(*tile.rows), slice(*tile.columns)] for tile in group]
        return torch.stack(tiles).long().to(self.coder.model.device)

    def _join(self, streams: list[Stream], places: list[tuple[int, int]]) -> bytes:
        ends = accumulate((len(s.thresholds) + len(s.payload) for s in streams), initial=0)
        tiles: list[list[StoredTile]] = [[] for _ in self.entries]
        for (image, number), stream, offset in zip(places, streams, ends, strict=False):
            crc = self.entries[image].tiles[number].crc
            tiles[image].append(StoredTile(crc, offset, len(stream.thresholds), len(stream.payload)))
        entries = [replace(entry, tiles=tuple(of_image)) for entry, of_image in zip(self.entries, tiles, strict=True)]
        joined = b"".join(part for stream in streams for part in (stream.thresholds, stream.payload))
        return join(Contents(replace(self.header, epsilon=self.coder.epsilon), self.model, entries, joined))


def _checked(model: AutoregressiveModel, x: Tensor, name: str) -> Tensor:
    if not isinstance(x, torch.Tensor | np.ndarray) or x.ndim != 3:
        raise InputError(f"{name}: an image must be (C, H, W) integers, not {getattr(x, 'shape', type(x).__name__)}")
    try:
        checked = model.check_images(x[None])[0]
        check_size(tuple(checked.shape[1:]), checked.shape[0])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    # As small as can be: all images are held until the archive is written.
    return checked.to("cpu", torch.uint8 if model.levels <= 256 else torch.int16 if model.levels <= 2**15 else torch.int32)
