"""The file format: header, model, index, streams and checksum as bytes. docs/codec.md documents every byte.

    magic 8 | version 2 | sizes of the next three, 4 + 8 + 8 | header | model | index | streams | SHA-256 of all before it, 32

The checksum is compared first. Sizes declared in a file are checked against the limits before memory is allocated for them.

Whole numbers as bytes, few for small ones, and what reads them.
"""

import hashlib
import struct
from dataclasses import dataclass

from nextpixel.coding.format.header import Header
from nextpixel.coding.format.index import Entry, pack_index, unpack_index
from nextpixel.errors import InputError

# As PNG's: the first byte is no text, and line ends show what a transfer has changed.
MAGIC = b"\x89NPX\r\n\x1a\n"
VERSION = 3
_SIZES = struct.Struct("<HIQQ")
_DIGEST = 32
_START = len(MAGIC) + _SIZES.size


@dataclass(frozen=True)
class Contents:
    """A file taken apart; `model` is empty where the file holds none."""

    header: Header
    model: bytes
    entries: list[Entry]
    streams: bytes | memoryview


def join(contents: Contents) -> bytes:
    """A whole file."""
    text, index = contents.header.to_json(), pack_index(contents.entries)
    sizes = _SIZES.pack(VERSION, len(text), len(contents.model), len(index))
    body = b"".join([MAGIC, sizes, text, contents.model, index, contents.streams])
    return body + hashlib.sha256(body).digest()


def split(data: bytes, where: str) -> Contents:
    """A file's parts, all checked but the streams, which only decoding can check.

    Raises:
        InputError: no archive, another version of the format, damaged, or beyond the limits.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise InputError(f"{where} is no nextpixel archive: it does not begin like one")
    if len(data) < _START + _DIGEST:
        raise InputError(f"{where} is cut off: {len(data)} bytes are no whole archive")
    version, *sizes = _SIZES.unpack_from(data, len(MAGIC))
    if version != VERSION:
        raise InputError(f"{where} has version {version} of the format, or is damaged: this nextpixel reads version {VERSION}")
    body, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise InputError(f"{where} is damaged or cut off: its bytes do not match its checksum")
    parts, at = [], _START
    for size in sizes:
        parts.append(bytes(body[at : at + size]))
        at += size
    if at > len(body):
        raise InputError(f"{where} declares parts that are larger than the file")
    header, streams = Header.from_json(parts[0], where), body[at:]
    return Contents(header, parts[1], unpack_index(header, parts[2], len(streams), where), streams)
