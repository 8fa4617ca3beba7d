"""Picture files as arrays and symbols, by one reader: 8 bits, grey or RGB, opaque, turned by their EXIF data."""

import math
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from nextpixel.errors import InputError
from nextpixel.files import open_regular

# What Pillow raises for damaged files, depending on the format and the place of the damage.
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, Image.DecompressionBombError)

# What a mode of Pillow becomes. A palette becomes RGB even when all its colours are grey: modes do not depend on the content.
MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}


def read_picture(
    file: str | Path | BinaryIO,
    name: str | None = None,
    *,
    grayscale: bool = False,
    crop: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode one picture to uint8 (C, H, W), C = 1 or 3, turned by its EXIF data.

    Args:
        file: a path, or what is open for reading.
        name: in messages; by default the path.
        grayscale: turn colours to grey.
        crop: (H, W) of the centre that is kept.
        size: (H, W) that it is then resized to.

    Raises:
        InputError: damaged, 16 bits or more, transparent, or in another colour space than gray and RGB.
    """
    name = str(file) if name is None else name
    try:
        if isinstance(file, str | Path):
            os.close(open_regular(file))
        with Image.open(file) as opened:
            deep = _is_deep(opened)
            image = ImageOps.exif_transpose(opened)
    except InputError:
        raise
    except UnidentifiedImageError as error:  # its own message shows the address of a buffer
        raise InputError(f"cannot read the picture {name}: not an image, or its beginning is damaged") from error
    except DAMAGED as error:
        raise unreadable(name, error) from error
    if deep:
        raise InputError(f"{name} has more than 8 bits per channel: convert it to 8 bits")
    if image.mode not in MODES:
        raise InputError(f"{name} has the colour mode {image.mode}: convert it to gray or RGB")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise InputError(f"{name} is partly transparent: put it on a background and save it without alpha")
    image = image.convert("L" if grayscale else MODES[image.mode])
    if crop is not None:
        image = Image.fromarray(centre_crop(np.asarray(image), crop, (0, 1), name))
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _is_deep(image: Image.Image) -> bool:
    """Tell whether the file holds more than 8 bits: for colour, Pillow would cut them off silently."""
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return True
        if tile[0] in ("ppm", "ppm_plain") and args[-1] > 255:
            return True
    return image.mode.startswith(("I", "F"))


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


def load_mask(spec: str | Path, height: int, width: int) -> torch.Tensor:
    """Return the known places for a completion, as a mask (1, H, W) that is True where the image is given.

    Args:
        spec: "top:S", "bottom:S", "left:S" or "right:S" with the share S of rows or columns that is known (0 .. 1, rounded
            half up), or a black and white picture file of that size (white = known).
        height: H.
        width: W.

    Raises:
        InputError: the share is not in 0 .. 1; the file cannot be read, has another size, or is not black and white.

    Example:
        >>> load_mask("top:0.5", height=2, width=3).int()
        tensor([[[1, 1, 1],
                 [0, 0, 0]]], dtype=torch.int32)
    """
    match = re.fullmatch(r"(top|bottom|left|right):(.*)", str(spec))
    if match is None:
        return _mask_picture(spec, height, width)
    side, text = match.groups()
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(f"{spec}: the known share must be a number from 0 to 1, not {text!r}")
    size = height if side in ("top", "bottom") else width
    count = math.floor(share * size + 0.5)
    line = torch.arange(size) < count if side in ("top", "left") else torch.arange(size) >= size - count
    mask = line[:, None] if side in ("top", "bottom") else line[None, :]
    return mask.expand(1, height, width).clone()


def _mask_picture(path: str | Path, height: int, width: int) -> torch.Tensor:
    if not Path(path).exists():
        raise InputError(f"{path} is neither a mask file nor one of top:S, bottom:S, left:S, right:S with a share S from 0 to 1")
    pixels = read_picture(path)
    if pixels.shape[1:] != (height, width):
        raise InputError(
            f"{path} is {pixels.shape[2]} x {pixels.shape[1]} pixels wide and high, but the image is {width} x {height}"
        )
    white, black = (pixels == 255).all(axis=0), (pixels == 0).all(axis=0)
    if not (white | black).all():
        raise InputError(f"{path} is no mask: it must be black and white only (white = known)")
    return torch.from_numpy(white)[None]


def unreadable(path: str | Path, error: Exception) -> InputError:
    """What to raise where a picture is damaged or missing: its name and the reason, in one line.

    Example:
        >>> unreadable("a.png", FileNotFoundError(2, "No such file or directory", "a.png"))
        InputError('cannot read the picture a.png: No such file or directory')
    """
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return InputError(f"cannot read the picture {path}: {reason}")
