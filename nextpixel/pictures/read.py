"""Picture files as arrays and symbols, by one reader: 8 bits, grey or RGB, opaque, turned by their EXIF data."""

import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from nextpixel.errors import LONGEST_SHOWN, InputError, Notice, shown
from nextpixel.files import open_regular
from nextpixel.pictures.headers import foreign_kind, unusable, unusable_pages

# What Pillow raises for damaged files, depending on the format and the place of the damage.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError, ZeroDivisionError),
    *(struct.error, Image.DecompressionBombError),
)

# What a mode of Pillow becomes. A palette becomes RGB even when all its colours are grey: modes do not depend on the content.
MODES = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "La": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "RGBa": "RGB",
    "RGBX": "RGB",
}
# Colour spaces that become RGB, but not exactly.
INEXACT = ("CMYK", "YCbCr")
# Further pictures that a camera adds to a JPEG (MPO), smaller or from another angle: no images of a data set.
PREVIEWS = "previews"
_PAGE = re.compile(r"(?s)(.+)#([1-9][0-9]{0,8})")


def read_picture(
    file: str | Path | BinaryIO,
    name: str | None = None,
    *,
    grayscale: bool = False,
    crop: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    page: int | None = None,
    lossless: bool = False,
    converted: Counter[str] | None = None,
) -> np.ndarray:
    """Decode one picture to uint8 (C, H, W), C = 1 or 3, turned by its EXIF data.

    Args:
        file: a path, or what is open for reading. FILE#2 is the second page or frame of FILE.
        name: in messages; by default the path.
        grayscale: turn colours to grey.
        crop: (H, W) of the centre that is kept.
        size: (H, W) that it is then resized to.
        page: which page or frame, from 0; without it a file must hold one.
        lossless: refuse colour spaces that become RGB by rounding (CMYK, YCbCr).
        converted: counts these by their name, and under `PREVIEWS` what is left out; without it each gives a `Notice`.

    Raises:
        InputError: damaged, of a kind that cannot be read, of several pages, more than 8 bits per channel, transparent, or in
            another colour space than grey and RGB.
    """
    name = str(file) if name is None else name
    if isinstance(file, str | Path) and page is None:
        file, page = page_of(file)
    prepared = {"grayscale": grayscale, "crop": crop, "size": size, "lossless": lossless, "converted": converted}
    return next(read_pages(file, [(name, page)], **prepared))


def read_pages(
    file: str | Path | BinaryIO,
    pages: Iterable[tuple[str, int | None]],
    *,
    grayscale: bool = False,
    crop: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    lossless: bool = False,
    converted: Counter[str] | None = None,
) -> Iterator[np.ndarray]:
    """Decode pages or frames of one file, which is opened once, in the order given.

    Args:
        file: a path, or what is open for reading.
        pages: the name of each in messages, and its number from 0; None for the only one.
        grayscale, crop, size, lossless, converted: as of `read_picture`.

    Raises:
        InputError: as `read_picture`.
    """
    with ExitStack() as stack:
        wrong: list[str | None] | None = None
        opened: Image.Image | None = None
        for name, page in pages:
            with _damage(name):
                if opened is None:
                    opened = _open(file, name, stack)
                frames = _frames(opened, previews=lossless)
                if page is None and frames > 1:
                    raise InputError(f"{shown(name)} holds {frames} pages or frames, expected one: name it as {shown(name)}#1")
                if (page or 0) >= frames:
                    count = "1 page or frame" if frames == 1 else f"{frames} pages or frames"
                    raise InputError(f"{shown(name)} holds {count}, not {page + 1}")
                opened.seek(page or 0)
                if page and opened.format == "TIFF":
                    wrong = _unusable_pages(opened) if wrong is None else wrong
                    if page < len(wrong) and wrong[page]:
                        raise _too_deep(name, wrong[page])
                if deep := _deep(opened):
                    raise _too_deep(name, deep)
                if opened.format == "MPO" and not lossless and converted is not None and opened.n_frames > 1:
                    converted[PREVIEWS] += opened.n_frames - 1
                image = ImageOps.exif_transpose(opened)
            several = frames > 1 and opened.format == "GIF"
            yield _prepared(image, name, several, grayscale, crop, size, lossless, converted)


def _prepared(
    image: Image.Image,
    name: str,
    several: bool,
    grayscale: bool,
    crop: tuple[int, int] | None,
    size: tuple[int, int] | None,
    lossless: bool,
    converted: Counter[str] | None,
) -> np.ndarray:
    if image.mode in INEXACT and not lossless:
        if converted is None:
            warnings.warn(f"{shown(name)} is {image.mode}: converted to RGB", Notice, stacklevel=2)
        else:
            converted[image.mode] += 1
        image = image.convert("RGB")
    if image.mode not in MODES:
        raise InputError(f"{shown(name)} has the colour mode {image.mode}: convert it to gray or RGB")
    target = "RGB" if several else MODES[image.mode]  # frames of an animation are of one kind
    if image.has_transparency_data:
        if image.mode in ("RGBa", "La"):
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            raise InputError(f"{shown(name)} is partly transparent: put it on a background and save it without alpha")
    image = image.convert("L" if grayscale else target)
    if crop is not None:
        image = Image.fromarray(centre_crop(np.asarray(image), crop, (0, 1), shown(name)))
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def count_pages(file: str | Path | BinaryIO, name: str | None = None, previews: bool = False) -> int:
    """How many pages or frames a picture file holds, each of which is an image.

    Args:
        file: a path, or what is open for reading.
        name: in messages; by default the path.
        previews: count the further pictures that cameras add to a JPEG (MPO) too.

    Raises:
        InputError: it cannot be opened, or its pixels are of a kind that cannot be used.
    """
    name = str(file) if name is None else name
    with ExitStack() as stack, _damage(name):
        return _frames(_open(file, name, stack), previews)


def page_of(path: str | Path) -> tuple[str | Path, int | None]:
    """The file and the page, from 0, that FILE#PAGE means, unless there is a file of this very name.

    Example:
        >>> page_of("scan.tif#3"), page_of("scan.tif")
        (('scan.tif', 2), ('scan.tif', None))
    """
    match = _PAGE.fullmatch(str(path))
    if match is None or os.path.lexists(path):
        return path, None
    return match[1], int(match[2]) - 1


def pages_of(path: str) -> list[str]:
    """The names of a file's pages or frames, FILE#1, FILE#2, ...; its own where it holds one or is such a name.

    Raises:
        InputError: as `count_pages`.
    """
    if page_of(path)[1] is not None or (number := count_pages(path)) == 1:
        return [path]
    return [f"{path}#{n + 1}" for n in range(number)]


def _open(file: str | Path | BinaryIO, name: str, stack: ExitStack) -> Image.Image:
    """The first page of a file, which `stack` closes."""
    stream = stack.enter_context(os.fdopen(open_regular(file), "rb")) if isinstance(file, str | Path) else file
    try:
        if wrong := unusable(stream):
            raise _too_deep(name, wrong)
        return stack.enter_context(Image.open(stream))
    except UnidentifiedImageError as error:  # its own message shows the address of a buffer
        if kind := foreign_kind(stream):
            raise unsupported(name, kind) from error
        raise unreadable(name, "not an image, or its beginning is damaged") from error


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """All that Pillow raises in the body is an InputError."""
    try:
        yield
    except InputError:
        raise
    except DAMAGED as error:
        raise unreadable(name, error) from error


def _frames(image: Image.Image, previews: bool) -> int:
    # The layers of Photoshop and the sizes of an icon are parts of one picture.
    single = image.format in ("PSD", "ICO", "ICNS") or (image.format == "MPO" and not previews)
    return 1 if single else getattr(image, "n_frames", 1)


def _deep(image: Image.Image) -> str | None:
    """What is more than 8 bits in the page that is open: for colour, Pillow would cut it off silently."""
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return "more than 8 bits per channel (16)"
        if tile[0] in ("ppm", "ppm_plain") and args[-1] > 255:
            return f"more than 8 bits per channel ({args[-1].bit_length()})"
    if image.mode.startswith("I"):
        return f"more than 8 bits per channel ({16 if '16' in image.mode else 32})"
    return "floats of 32 bits per channel" if image.mode.startswith("F") else None


def _unusable_pages(image: Image.Image) -> list[str | None]:
    place = image.fp.tell()
    wrong = unusable_pages(image.fp)
    image.fp.seek(place)
    return wrong


def _too_deep(name: str, what: str) -> InputError:
    training = "give --data.source_levels 65536 in training"
    return InputError(f"{shown(name)} has {what}: convert it to 8 bits, or its integers to a .npy array, or {training}")


def unsupported(name: str, kind: str) -> InputError:
    """What to raise where an intact file is of a kind that cannot be read.

    Example:
        >>> unsupported("a.jxl", "JPEG XL")
        InputError('a.jxl is of a kind that is not supported here (JPEG XL): save it as PNG or TIFF, 8 bits, grey or RGB')
    """
    return InputError(
        f"{shown(name)} is of a kind that is not supported here ({kind}): save it as PNG or TIFF, 8 bits, grey or RGB"
    )


def centre_crop(x: np.ndarray, crop: tuple[int, int], axes: tuple[int, int], name: str) -> np.ndarray:
    """Return the view of `x` that keeps the centre `crop` (H, W) of its two `axes`.

    Raises:
        InputError: `x` is smaller than the crop.

    Example:
        >>> centre_crop(np.arange(12).reshape(3, 4), (1, 2), (0, 1), "x")
        array([[5, 6]])
    """
    height, width = (x.shape[axis] for axis in axes)
    if crop[0] > height or crop[1] > width:
        raise InputError(f"{name} is {height}x{width} (height x width): smaller than --data.crop {crop[0]}x{crop[1]}")
    window = [slice(None)] * x.ndim
    for axis, whole, kept in zip(axes, (height, width), crop, strict=True):
        window[axis] = slice((whole - kept) // 2, (whole - kept) // 2 + kept)
    return x[tuple(window)]


def load_image(path: str | Path, levels: int, channels: int) -> torch.Tensor:
    """Read a picture file as symbols floor(v levels / 256) of its brightness v = 0 .. 255.

    Grey becomes RGB by repetition; RGB becomes grey only if it is grey already.

    Args:
        path: a file that Pillow can read, 8 bits per channel.
        levels: number of symbols.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        int64 (channels, H, W).

    Raises:
        InputError: the file is missing, damaged, deeper than 8 bits, transparent, or has other channels.
    """
    return picture_symbols(read_picture(path), levels, channels, str(path))


def picture_symbols(pixels: np.ndarray, levels: int, channels: int, name: str) -> torch.Tensor:
    """A decoded picture, uint8 (1 or 3, H, W), as symbols like those of `load_image`: int64 (channels, H, W).

    Raises:
        InputError: neither 1 nor 3 channels are needed, or one is, and the picture is in colour.

    Example:
        >>> picture_symbols(np.array([[[0, 127, 128, 255]]], dtype=np.uint8), 2, 1, "a.png")
        tensor([[[0, 0, 1, 1]]])
    """
    if channels not in (1, 3):
        raise InputError(f"{name}: a picture file gives 1 or 3 channels, but {channels} are needed")
    if channels == 1 and (pixels != pixels[:1]).any():
        raise InputError(f"{name} is a colour picture, but 1 channel is needed: convert it to grey first")
    values = torch.from_numpy(pixels.astype(np.int64))[:channels].expand(channels, -1, -1)
    return (values * levels // 256).contiguous()


def unreadable(path: str | Path, error: Exception | str) -> InputError:
    """What to raise where a picture is damaged or missing: its name and the reason, in one line.

    Example:
        >>> unreadable("a.png", FileNotFoundError(2, "No such file or directory", "a.png"))
        InputError('cannot read the picture a.png: No such file or directory')
    """
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return InputError(f"cannot read the picture {shown(path)}: {reason[:LONGEST_SHOWN]}")
