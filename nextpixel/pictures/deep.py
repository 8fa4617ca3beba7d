"""Pictures of more than 8 bits for each channel, which the usual reader refuses: PNG, PNM, and grey TIFF.

Pillow holds 16 bits in grey pictures only and cuts those of colour to 8, so that the values of PNG and PNM are read here.
"""

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from nextpixel.errors import InputError, shown
from nextpixel.files import open_regular
from nextpixel.pictures.read import DAMAGED, centre_crop, unreadable

LARGEST = 2**28  # values of a picture
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_PNG, _COLOURS = b"\x89PNG\r\n\x1a\n", {0: 1, 2: 3}
_PNM = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s", re.DOTALL)


def read_deep(
    file: str | Path | BinaryIO,
    name: str,
    *,
    grayscale: bool = False,
    crop: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """The values of a picture of 9 to 16 bits as they stand in the file: uint16 (1 or 3, H, W), turned by its EXIF data.

    Args:
        file: a path, or what is open for reading.
        name: in messages.
        grayscale: turn colours to grey, rounded.
        crop: (H, W) of the centre that is kept.
        size: (H, W) that it is then resized to.

    Raises:
        InputError: damaged, of 8 bits, interlaced, transparent, or of a kind that is not read here.
    """
    try:
        if isinstance(file, str | Path):
            with open(open_regular(file), "rb") as stream:
                data = stream.read()
        else:
            data = file.read()
        x, orientation = _values(data, name)
    except InputError:
        raise
    except (*DAMAGED, zlib.error) as error:
        raise unreadable(name, error) from error
    x = _turned(x, orientation)
    if grayscale and len(x) == 3:
        x = np.rint(np.tensordot(LUMA, x, 1))[None].astype(np.uint16)
    if crop is not None:
        x = centre_crop(x, crop, (1, 2), shown(name))
    if size is not None:
        floats = [Image.fromarray(channel.astype(np.float32)).resize(size[::-1], Image.Resampling.LANCZOS) for channel in x]
        x = np.rint(np.stack([np.asarray(channel) for channel in floats])).clip(0, x.max()).astype(np.uint16)
    return x


def _values(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """The values (C, H, W) and the orientation by EXIF."""
    if data.startswith(_PNG):
        return _read_png(data, name), Image.open(BytesIO(data)).getexif().get(0x0112, 1)
    if match := _PNM.match(data):
        return _read_pnm(data, match, name), 1
    image = Image.open(BytesIO(data))
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{shown(name)} holds {image.n_frames} pages: of more than 8 bits only single ones are read")
    if not image.mode.startswith("I;16"):
        raise _refused(name, f"{image.format} of mode {image.mode}")
    return np.asarray(image).astype(np.uint16)[None], image.getexif().get(0x0112, 1)


def _refused(name: str, what: str) -> InputError:
    kinds = "PNG (not interlaced), PGM, PPM and grey TIFF of 16 bits, grey or RGB"
    return InputError(f"{shown(name)} is {what}, but --data.source_levels above 256 takes {kinds}; a .npy array holds the others")


def _read_pnm(data: bytes, match: re.Match[bytes], name: str) -> np.ndarray:
    channels, (width, height, most) = (1 if match[1] == b"5" else 3), (int(match[k]) for k in (2, 3, 4))
    if not 256 <= most <= 65535:
        raise _refused(name, f"of {most + 1} levels")
    count = channels * width * height
    if len(data) < match.end() + 2 * count:
        raise unreadable(name, "it ends too early")
    x = np.frombuffer(data, ">u2", count, match.end()).reshape(height, width, channels)
    if x.max(initial=0) > most:
        raise unreadable(name, f"value {x.max()} where its header has at most {most}")
    return x.transpose(2, 0, 1).astype(np.uint16)


def _read_png(data: bytes, name: str) -> np.ndarray:
    chunks = list(_chunks(data))
    header = next((content for kind, content in chunks if kind == b"IHDR"), b"")
    if len(header) != 13:
        raise unreadable(name, "it has no header")
    width, height = (int.from_bytes(header[k : k + 4], "big") for k in (0, 4))
    bits, colour, interlaced = header[8], header[9], header[12]
    if bits != 16 or colour not in _COLOURS or interlaced or any(kind == b"tRNS" for kind, _ in chunks):
        transparent = colour in (4, 6) or (bits == 16 and colour in _COLOURS)
        raise _refused(name, "interlaced" if interlaced else "transparent" if transparent else f"PNG of {bits} bits")
    if any(kind == b"acTL" for kind, _ in chunks):
        raise InputError(f"{shown(name)} is animated: of more than 8 bits only single pictures are read")
    channels = _COLOURS[colour]
    if not 0 < width * height * channels <= LARGEST:
        raise unreadable(name, f"its header says {width} x {height}")
    line = 2 * channels * width
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    raw = zlib.decompressobj().decompress(packed, height * (line + 1))
    if len(raw) < height * (line + 1):
        raise unreadable(name, "it ends too early")
    rows = np.frombuffer(raw, np.uint8).reshape(height, line + 1)
    found, above = np.empty((height, line), np.uint8), np.zeros(line, np.uint8)
    for i, row in enumerate(rows):
        above = found[i] = _unfiltered(int(row[0]), row[1:], above, 2 * channels, name)
    return found.view(">u2").reshape(height, width, channels).transpose(2, 0, 1).astype(np.uint16)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of a PNG's chunks, whose checksums are compared."""
    place = len(_PNG)
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        content, check = data[place + 8 : place + 8 + length], data[place + 8 + length : place + 12 + length]
        if len(check) < 4 or zlib.crc32(kind + content) != int.from_bytes(check, "big"):
            raise ValueError("a chunk is damaged")
        yield kind, content
        place += 12 + length


def _unfiltered(kind: int, row: np.ndarray, above: np.ndarray, step: int, name: str) -> np.ndarray:
    """A row of bytes before PNG's filter (section 9.2 of its specification); `step` bytes are a pixel."""
    if kind == 0:
        return row
    if kind == 1:
        return row.reshape(-1, step).cumsum(0, dtype=np.uint8).ravel()
    if kind == 2:
        return row + above
    if kind not in (3, 4):
        raise unreadable(name, f"filter {kind} is unknown")
    out, up = bytearray(row.tobytes()), above.tobytes()
    for k in range(len(out)):
        a, b = (out[k - step] if k >= step else 0), up[k]
        if kind == 3:
            guess = (a + b) // 2
        else:
            c = up[k - step] if k >= step else 0
            pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            guess = a if pa <= pb and pa <= pc else b if pb <= pc else c
        out[k] = (out[k] + guess) & 255
    return np.frombuffer(bytes(out), np.uint8)


def _turned(x: np.ndarray, orientation: int) -> np.ndarray:
    """An array (C, H, W) turned as EXIF's orientation 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        x = x.transpose(0, 2, 1)
    if orientation in (2, 3, 6, 7):
        x = x[:, :, ::-1]
    return x[:, ::-1] if orientation in (3, 4, 7, 8) else x
