"""Picture files decoded by Pillow: gray or RGB, 8 bits, all of one size."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nextpixel.data.raw import allocate
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.files import open_regular
from nextpixel.pictures.grid import DAMAGED, unreadable
from nextpixel.progress import track

# What a mode of Pillow becomes. Palettes become RGB even when all their colours are gray: the mode must not hang on the content.
MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}


def read_picture(file: Path | BinaryIO, name: str, settings: DataSettings) -> np.ndarray:
    """Decode one picture to uint8 (C, H, W), turned as its EXIF says, then made gray, cropped and resized as set.

    Raises:
        InputError: damaged, 16 bits or more, transparent, or in another colour space than gray and RGB.
    """
    try:
        if isinstance(file, Path):
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
    return _arrange(image.convert("L" if settings.grayscale else MODES[image.mode]), name, settings)


def _is_deep(image: Image.Image) -> bool:
    """Tell whether the file holds more than 8 bits: for colour, Pillow would cut them off without a word."""
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return True
        if tile[0] in ("ppm", "ppm_plain") and args[-1] > 255:
            return True
    return image.mode.startswith(("I", "F"))


def _arrange(image: Image.Image, name: str, settings: DataSettings) -> np.ndarray:
    """Crop and resize; return uint8 (C, H, W)."""
    if settings.crop is not None:
        image = Image.fromarray(centre_crop(np.asarray(image), settings.crop, (0, 1), name))
    if settings.size is not None:
        height, width = settings.size
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


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


def stack_pictures(
    files: Iterable[tuple[Path | BinaryIO, str]], total: int, settings: DataSettings, what: str, progress: bool
) -> np.ndarray:
    """Decode `total` > 0 pictures, given with their names, straight into one array uint8 (total, C, H, W).

    Raises:
        InputError: a picture cannot be read or differs from the first in size or channels; the message names both.
    """
    stacked: np.ndarray | None = None
    first_name = ""
    for n, (file, name) in enumerate(track(files, total, f"decoding {what}", progress)):
        picture = read_picture(file, name, settings)
        if stacked is None:
            stacked, first_name = allocate((total, *picture.shape)), name
        _compare(picture.shape, name, stacked.shape[1:], first_name)
        stacked[n] = picture
    if stacked is None:
        raise InputError(f"{what} holds no pictures")
    return stacked


def _compare(shape: tuple[int, ...], name: str, first: tuple[int, ...], first_name: str) -> None:
    """Raise InputError where two shapes (C, H, W) differ."""
    colour = {1: "gray", 3: "RGB"}
    if shape[0] != first[0]:
        both = f"{name} is {colour[shape[0]]} where {first_name} is {colour[first[0]]}"
        raise InputError(f"{both}: give --data.grayscale true, or pictures of one kind")
    if shape != first:
        both = f"{name} is {shape[1]}x{shape[2]} (height x width) where {first_name} is {first[1]}x{first[2]}"
        raise InputError(f"{both}: give --data.size [H,W] or --data.crop [H,W]")
