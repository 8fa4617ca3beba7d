"""What the header of a picture file holds where Pillow is silent: bits per channel, channels, kinds that nothing here reads."""

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

from PIL import Image, features

_PLAIN = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".pbm")
# Where Pillow may have been built without a decoder, and what it calls it.
_OPTIONAL = {".webp": "webp", ".jp2": "jpg_2000", ".j2k": "jpg_2000", ".avif": "avif"}
SUFFIXES = frozenset((*_PLAIN, *_OPTIONAL, ".jxl"))

_TIFF = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_FORMATS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}  # of a photometric interpretation, without its alpha
_MOST_PAGES, _MOST_VALUES = 65536, 64
# What the parsers below raise on damaged headers.
_DAMAGED = (struct.error, IndexError, KeyError, ValueError, OverflowError, TypeError, OSError)
_J2K, _JP2 = b"\xff\x4f\xff\x51", b"jP  \r\n\x87\n"

# Kinds of intact files that Pillow may have no reader for; (where the mark stands, the mark).
_KINDS = {
    "JPEG XL": ((0, b"\xff\x0a"), (4, b"JXL ")),
    "AVIF": ((4, b"ftypavif"), (4, b"ftypavis")),
    "HEIF": ((4, b"ftyphei"), (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"ftypmsf1")),
    "JPEG 2000": ((0, _J2K), (4, _JP2)),
    "WebP": ((8, b"WEBP"),),
    "OpenEXR": ((0, b"\x76\x2f\x31\x01"),),
    "Radiance HDR": ((0, b"#?RADIANCE"), (0, b"#?RGBE")),
    "JPEG XR": ((0, b"II\xbc"),),
    "JPEG-LS": ((0, b"\xff\xd8\xff\xf7"),),
    "Photoshop": ((0, b"8BPS"),),
    "SVG": ((0, b"<svg"),),
    "PDF": ((0, b"%PDF"),),
}


@cache
def has_decoder(suffix: str) -> bool:
    """Whether Pillow, as it is installed, decodes pictures of a suffix of `SUFFIXES`.

    Example:
        >>> has_decoder(".png"), has_decoder(".nothing")
        (True, False)
    """
    if suffix in _OPTIONAL:
        name = _OPTIONAL[suffix]
        return (name in features.modules or name in features.codecs) and bool(features.check(name))
    return suffix in _PLAIN or Image.registered_extensions().get(suffix) in Image.OPEN


def unusable(stream: BinaryIO) -> str | None:
    """What the first page's pixels are, where they are not 1 to 8 bits, grey, palette or colour; None where they fit.

    Pillow drops the other bits and channels silently. The stream is rewound.

    Example:
        >>> import io
        >>> unusable(io.BytesIO(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(16) + bytes([16, 2])))
        'more than 8 bits per channel (16)'
    """
    try:
        stream.seek(0)
        head = stream.read(64)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return _depth(*head[24:25])
        if head[:4] in _TIFF:
            return next(map(_of_tiff, _tiff_pages(stream)), None)
        if head.startswith(_J2K) or head[4:12] == _JP2:
            return _of_jpeg_2000(stream)
        if head[4:8] == b"ftyp" and b"avi" in head[8:]:
            return _of_avif(stream)
        return _of_jpeg(stream) if head.startswith(b"\xff\xd8") else None
    except _DAMAGED:  # the decoder raises
        return None
    finally:
        stream.seek(0)


def unusable_pages(stream: BinaryIO) -> list[str | None]:
    """As `unusable`, of every page of a TIFF, in one walk through it; empty for other kinds, and where it is damaged."""
    stream.seek(0)
    try:
        return list(map(_of_tiff, _tiff_pages(stream))) if stream.read(4) in _TIFF else []
    except _DAMAGED:
        return []
    finally:
        stream.seek(0)


def foreign_kind(stream: BinaryIO) -> str | None:
    """The name of what an intact file holds that Pillow does not read; None where it may well be damaged."""
    stream.seek(0)
    head = stream.read(512)
    stream.seek(0)
    for name, marks in _KINDS.items():
        if any(head[at : at + len(mark)] == mark for at, mark in marks):
            return name
    if b"<svg" in head:
        return "SVG"
    if head[:4] in _TIFF:
        try:
            page = next(_tiff_pages(stream))
        except (struct.error, StopIteration, OverflowError, ValueError, OSError):
            return None
        finally:
            stream.seek(0)
        if 256 in page and 257 in page:
            channels, bits, photometric, compression = (page.get(tag, (1,))[0] for tag in (_SAMPLES, _BITS, _PHOTOMETRIC, 259))
            return f"TIFF of {channels} x {bits} bits, photometric {photometric}, compression {compression}"
    return None


def _depth(bits: int, signed: bool = False) -> str | None:
    if bits > 8:
        return f"more than 8 bits per channel ({bits})"
    return f"signed integers of {bits} bits" if signed else None


def _of_tiff(page: dict[int, tuple[int, ...]]) -> str | None:
    bits, kinds = page.get(_BITS, (1,)), page.get(_FORMAT, (1,))
    samples, extra = page.get(_SAMPLES, (1,))[0], page.get(_EXTRA, ())
    named = next((_FORMATS[kind] for kind in kinds if kind in _FORMATS), None)
    if named:
        return f"{named} of {max(bits)} bits per channel"
    if max(bits) > 8:
        return _depth(max(bits))
    usual = _CHANNELS.get(page.get(_PHOTOMETRIC, (1,))[0], samples)
    alpha = samples == usual + 1 and (not extra or extra[0] in (1, 2))
    return None if samples == usual or alpha else f"{samples} channels, where {usual} and alpha would be usual"


def _tiff_pages(stream: BinaryIO) -> Iterator[dict[int, tuple[int, ...]]]:
    """The whole-number tags of each page."""
    stream.seek(0)
    order, width = _TIFF[stream.read(4)]
    word, count, size = (order + "Q", order + "Q", 20) if width == 8 else (order + "I", order + "H", 12)
    if width == 8:
        stream.read(4)
    (at,), seen = struct.unpack(word, stream.read(width)), set()
    while at and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        stream.seek(at)
        (entries,) = struct.unpack(count, stream.read(struct.calcsize(count)))
        table = stream.read(size * min(entries, _MOST_PAGES))
        (at,) = struct.unpack(word, stream.read(width))
        tags = {}
        for k in range(0, len(table), size):
            tag, kind = struct.unpack(order + "HH", table[k : k + 4])
            (values,) = struct.unpack(word, table[k + 4 : k + 4 + width])
            if kind not in _TIFF_NUMBERS or not 1 <= values <= _MOST_VALUES:
                continue
            form = f"{order}{values}{_TIFF_NUMBERS[kind]}"
            raw = table[k + 4 + width : k + size]
            if struct.calcsize(form) > width:
                stream.seek(*struct.unpack(word, raw))
                raw = stream.read(struct.calcsize(form))
            tags[tag] = struct.unpack(form, raw[: struct.calcsize(form)])
        yield tags


def _of_jpeg_2000(stream: BinaryIO) -> str | None:
    stream.seek(0)
    data = stream.read()
    at = data.index(_J2K)
    (parts,) = struct.unpack(">H", data[at + 40 : at + 42])
    kinds = data[at + 42 : at + 42 + 3 * parts : 3]
    return _depth(max(kind & 127 for kind in kinds) + 1, signed=any(kind & 128 for kind in kinds))


def _of_avif(stream: BinaryIO) -> str | None:
    """10 or 12 bits stand in the configuration of the codec, in the boxes `meta` or `moov`."""
    stream.seek(0)
    while len(head := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if size == 1:
            size = struct.unpack(">Q", stream.read(8))[0] - 8
        body = size - 8
        if kind not in (b"meta", b"moov"):
            if body < 0:
                return None
            stream.seek(body, 1)
            continue
        data, at = stream.read(body), 0
        while (at := data.find(b"av1C", at)) >= 0:
            if data[at + 6] & 0x40:
                return _depth(12 if data[at + 6] & 0x20 else 10)
            at += 4
    return None


def _of_jpeg(stream: BinaryIO) -> str | None:
    """The precision stands in the frame header, behind other segments."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF:
        marker, length = head[1], int.from_bytes(head[2:], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _depth(*stream.read(1))
        stream.seek(length - 2, 1)
    return None
