"""The index of an archive: name, size, class, checksums and streams of every image, so that each can be read alone.

Its numbers are LEB128: few bytes for small ones.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nextpixel.coding.lanes import count_tiles
from nextpixel.errors import InputError

MOST_SIDE = 2**24
MOST_SYMBOLS = 2**28  # of one image
MOST_LABELS = 2**31
LEAST_BYTES = 6  # of a tile in the index
LONGEST_NUMBER = 10  # bytes
LONGEST_NAME = 200  # bytes between two /, so that an ending and a prefix fit into a file's name
LONGEST_PATH = 1000  # bytes
LONGEST_SHOWN = 80  # characters of a name in a message
ENDINGS = ("png", "npy")  # of what images are decoded to


class StoredTile(NamedTuple):
    """A tile's `checksum`, and where its stream lies among all: `thresholds` bytes from `offset`, then `payload` bytes."""

    crc: int
    offset: int
    thresholds: int
    payload: int

    @property
    def stored(self) -> int:
        """Bytes of its stream."""
        return self.thresholds + self.payload


@dataclass(frozen=True, slots=True)
class Entry:
    """The index's entry of an image.

    Attributes:
        name: a plain file name without its ending, or a relative path of plain names with / between them.
        size: (H, W).
        label: its class, for a class-conditional model.
        tiles: checksum and stream of each of its tiles.
    """

    name: str
    size: tuple[int, int]
    label: int | None
    tiles: tuple[StoredTile, ...]

    @property
    def stored(self) -> int:
        """Bytes of its streams."""
        return sum(tile.stored for tile in self.tiles)


def checksum(x: np.ndarray, levels: int) -> int:
    """CRC-32 of a tile's symbols (C, H, W), each in one byte up to 256 levels and in two, little-endian, above.

    Example:
        >>> checksum(np.zeros((1, 2, 2), dtype=np.int64), levels=2)
        558161692
    """
    return zlib.crc32(np.ascontiguousarray(x, dtype="u1" if levels <= 256 else "<u2"))


def check_name(name: str) -> None:
    """Refuse what is no relative path of plain names: nothing may be written beside the folder that images are decoded to.

    Raises:
        InputError: a path that leads elsewhere, a hidden name, or characters that some file system does not take.

    Example:
        >>> check_name("cat/001")
        >>> check_name("../image")
        Traceback (most recent call last):
        nextpixel.errors.InputError: '../image' is no plain file name: a part begins with a full stop
    """
    if wrong := wrong_with(name):
        raise InputError(f"{name[:LONGEST_SHOWN]!r} is no plain file name: {wrong}")


def wrong_with(name: str) -> str | None:
    """Why no image may have this name, in words; None where it may.

    Example:
        >>> wrong_with("cat/001"), wrong_with("cat ")
        (None, 'a blank at the beginning or the end')
    """
    for part in name.split("/"):
        if wrong := _wrong_with(part):
            return wrong
    length = len(name.encode())
    return f"it has {length} bytes, and at most {LONGEST_PATH} are possible" if length > LONGEST_PATH else None


def _wrong_with(part: str) -> str | None:
    """Why no file may be called this, in words."""
    if not part:
        return "it is empty, or a part between two / is"
    if part[0] == ".":
        return "a part begins with a full stop"
    if part != part.strip():
        return "a blank at the beginning or the end"
    if not part.isprintable():
        undecoded = any("\udc80" <= c <= "\udcff" for c in part)
        return "bytes that are no UTF-8" if undecoded else "a line break or another character that cannot be printed"
    if found := sorted(set(part) & set('\\:*?"<>|')):
        return f"the character {found[0]}, which some systems do not take"
    length = len(part.encode())
    return f"it has {length} bytes, and at most {LONGEST_NAME} are possible" if length > LONGEST_NAME else None


def check_names(names: Iterable[str]) -> None:
    """`check_name` for all names of an archive, which must be different and may not be one another's folders.

    Raises:
        InputError: they are not.

    Example:
        >>> check_names(["a", "b/a", "a.png/b"])
        Traceback (most recent call last):
        nextpixel.errors.InputError: 'a.png/b' and 'a' cannot be decoded to one folder: rename one of them
    """
    seen: set[str] = set()
    for name in names:
        check_name(name)
        if name in seen:
            raise InputError(f"two images are called {name[:LONGEST_SHOWN]!r}: an archive needs different names")
        seen.add(name)
    for name in seen:
        for at in (k for k, c in enumerate(name) if c == "/"):
            stem, _, ending = name[:at].rpartition(".")
            if ending in ENDINGS and stem in seen:
                both = f"{name[:LONGEST_SHOWN]!r} and {stem[:LONGEST_SHOWN]!r}"
                raise InputError(f"{both} cannot be decoded to one folder: rename one of them")


def check_size(size: tuple[int, int], channels: int) -> None:
    """Refuse images beyond the format's limits.

    Raises:
        InputError: more than 2^28 symbols or a side beyond 2^24.
    """
    if max(size) > MOST_SIDE or size[0] * size[1] * channels > MOST_SYMBOLS:
        raise InputError(f"an image of {channels} x {size[0]} x {size[1]} symbols is beyond the limit of {MOST_SYMBOLS}")


def pack_index(entries: list[Entry]) -> bytes:
    """The entries, one after the other, in LEB128 numbers but for the names and checksums."""
    found = bytearray(leb128(len(entries)))
    for entry in entries:
        name = entry.name.encode()
        found += leb128(len(name)) + name
        for number in (*entry.size, 0 if entry.label is None else entry.label + 1):
            found += leb128(number)
        for tile in entry.tiles:
            found += tile.crc.to_bytes(4, "little") + leb128(tile.thresholds) + leb128(tile.payload)
    return bytes(found)


def unpack_index(index: bytes, channels: int, tile: tuple[int, int] | None, streams: int, where: str) -> list[Entry]:
    """What `pack_index` packed, checked.

    Args:
        index: its bytes.
        channels, tile: of the header.
        streams: how many bytes of streams there are.
        where: what messages call the file.

    Raises:
        InputError: it does not fit its file, or declares what cannot be or is beyond the limits.
    """
    try:
        reader = Reader(index)
        number, entries, offset = reader.number(), [], 0
        for _ in range(number):
            entry = _entry(reader, channels, tile, offset)
            offset += entry.stored
            entries.append(entry)
        if not reader.finished or offset != streams:
            raise InputError("it does not fill the file")
        check_names(entry.name for entry in entries)
    except InputError as error:
        raise InputError(f"{where} has an index that cannot be right: {error}") from error
    return entries


def _entry(reader: "Reader", channels: int, tile: tuple[int, int] | None, offset: int) -> Entry:
    try:
        name = reader.bytes(reader.number()).decode()
    except UnicodeDecodeError:
        raise InputError("a name is no text") from None
    check_name(name)
    size = reader.number(), reader.number()
    if min(size) < 1:
        raise InputError(f"{name} has no pixels")
    check_size(size, channels)
    label, tiles = reader.number(), []
    if label > MOST_LABELS:
        raise InputError(f"{name} is of class {label - 1}")
    number = count_tiles(size, tile)
    if number > 1 and LEAST_BYTES * number > len(reader.data) - reader.at:
        raise InputError(f"{name} declares more tiles than there are")
    for _ in range(number):
        stored = StoredTile(int.from_bytes(reader.bytes(4), "little"), offset, reader.number(), reader.number())
        tiles.append(stored)
        offset += stored.stored
    return Entry(name, size, label - 1 if label else None, tuple(tiles))


def leb128(number: int) -> bytes:
    """A whole number in groups of 7 bits, lowest first, each but the last with its high bit set.

    Example:
        >>> leb128(300).hex()
        'ac02'
    """
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


class Reader:
    """Takes bytes and LEB128 numbers from a string of bytes, one after the other.

    Example:
        >>> reader = Reader(bytes.fromhex("ac0205"))
        >>> reader.number(), reader.bytes(1), reader.finished
        (300, b'\\x05', True)
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def finished(self) -> bool:
        return self.at == len(self.data)

    def bytes(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            InputError: there are not so many.
        """
        if self.at + count > len(self.data):
            raise InputError("it is cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """The next number.

        Raises:
            InputError: it is cut off or longer than 10 bytes.
        """
        found = 0
        for k in range(LONGEST_NUMBER):
            byte = self.bytes(1)[0]
            found |= (byte & 127) << 7 * k
            if byte < 128:
                return found
        raise InputError("a number is too long")
