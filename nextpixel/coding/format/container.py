"""The file format: header, model, index, streams and checksum as bytes. docs/codec.md documents every byte.

    magic 8 | version 2 | sizes of the next three, 4 + 8 + 8 | header | model | index | streams | SHA-256 of all before it, 32

The header is canonical JSON: what decoding depends on, and the machine that encoded. The checksum is compared first. Sizes
declared in a file are checked against the limits before memory is allocated for them.
"""

import hashlib
import json
import os
import platform
import struct
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch

import nextpixel
from nextpixel.coding.entropy.tables import LEAST_BITS, MOST_BITS
from nextpixel.coding.format.embedded import canonical
from nextpixel.coding.format.index import MOST_SIDE, Entry, pack_index, unpack_index
from nextpixel.coding.lanes import MOST_LANES, Mode
from nextpixel.errors import InputError
from nextpixel.likelihoods.base import MAX_LEVELS

# As PNG's: the first byte is no text, and line ends show what a transfer has changed.
MAGIC = b"\x89NPX\r\n\x1a\n"
VERSION = 3
_SIZES = struct.Struct("<HIQQ")
_DIGEST = 32
_START = len(MAGIC) + _SIZES.size
MOST_CHANNELS = 2**16
MOST_THREADS = 16  # which any machine may be made to start; one with more cores as many as these
LONGEST_TEXT = 200


def this_machine() -> dict[str, Any]:
    """What the last digits of a computation depend on: versions, processor and threads.

    Example:
        >>> sorted(this_machine())
        ['constriction', 'nextpixel', 'numba', 'numpy', 'processor', 'threads', 'torch']
    """
    return {
        "nextpixel": nextpixel.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "constriction": version("constriction"),
        "numba": version("numba"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True)
class Header:
    """Attributes:
    model, fingerprint: name of the architecture, and SHA-256 of its configuration and weights.
    channels, levels: of the images.
    mode: "float64" or "fast".
    lanes: images side by side when it was made.
    tile: (height, width) of tiles, or None.
    bits: of the frequency tables.
    epsilon: error bound of the margins; None in fast mode.
    made: by `this_machine`.
    """

    model: str
    fingerprint: str
    channels: int
    levels: int
    mode: Mode
    lanes: int
    tile: tuple[int, int] | None
    bits: int
    epsilon: float | None
    made: dict[str, Any] = field(default_factory=this_machine)

    def to_json(self) -> bytes:
        """Sorted keys, no spaces, ASCII."""
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Header":
        """Read and check what `to_json` wrote, here or in another version: keys that this one does not have are left out.

        Raises:
            InputError: anything else.
        """
        try:
            values = json.loads(text)
            known = {field.name: values[field.name] for field in fields(cls)}
            header = cls(**{**known, "tile": None if known["tile"] is None else tuple(known["tile"])})
            sound = canonical(values) == text and header._is_sound()
        except (ValueError, TypeError, KeyError, RecursionError):
            sound = False
        if not sound:
            raise InputError(f"{where} has a header that no version of nextpixel wrote")
        return header

    def _is_sound(self) -> bool:
        def whole(value: Any, least: int, most: int) -> bool:
            return type(value) is int and least <= value <= most

        def text(value: Any) -> bool:
            return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()

        return (
            text(self.model)
            and text(self.fingerprint)
            and whole(self.channels, 1, MOST_CHANNELS)
            and whole(self.levels, 2, MAX_LEVELS)
            and self.mode in get_args(Mode)
            and whole(self.lanes, 1, MOST_LANES)
            and (self.tile is None or (len(self.tile) == 2 and all(whole(side, 1, MOST_SIDE) for side in self.tile)))
            and whole(self.bits, LEAST_BITS, MOST_BITS)
            and (type(self.epsilon) is float and 0 < self.epsilon < 1 if self.mode == "float64" else self.epsilon is None)
            and isinstance(self.made, dict)
            and all(text(name) and (text(value) or type(value) is int) for name, value in self.made.items())
        )

    def check_machine(self, where: str) -> None:
        """Refuse an archive of fast mode that was made elsewhere: its last digits would differ, and with them all that follows.

        Raises:
            InputError: the first difference.
        """
        if self.mode != "fast":
            return
        here = this_machine()
        threads, most = self.made.get("threads"), max(MOST_THREADS, here.pop("threads"), os.cpu_count() or 1)
        for name, value in here.items():
            if self.made.get(name) != value:
                made = self.made.get(name, "that it does not name")
                raise InputError(
                    f"{where} was made in fast mode with {name} {made}, and only that decodes it: here it is {value}"
                )
        if type(threads) is not int or not 1 <= threads <= most:
            raise InputError(f"{where} was made in fast mode with {threads} threads: expected 1 to {most} on this machine")


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
    number, *sizes = _SIZES.unpack_from(data, len(MAGIC))
    if number != VERSION:
        raise InputError(f"{where} has version {number} of the format, or is damaged: this nextpixel reads version {VERSION}")
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
    return Contents(header, parts[1], unpack_index(parts[2], header.channels, header.tile, len(streams), where), streams)
