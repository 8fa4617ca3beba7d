"""Files to compress and files that come out: pixels as they are, or arrays of symbols."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.data.arrays import as_images, read_npy
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import brightness
from nextpixel.pictures.read import read_picture


def read_images(path: str, model: AutoregressiveModel) -> list[tuple[str, Tensor]]:
    """The images of a file with their names: (C, H, W) symbols of this model.

    A picture (PNG, WebP, TIFF, PGM, PPM and what else Pillow reads, 8 bits, grey or RGB) is one image, turned by its EXIF data.
    Grey becomes RGB by repetition, RGB becomes grey only if it is grey already, and a palette becomes RGB: pixels keep their
    colours, the palette is not kept. A .npy array of integers is one image (H, W), or many, as in training: (N, H, W),
    (N, C, H, W) or (N, H, W, C).

    Raises:
        InputError: unreadable, transparent, of more than 8 bits, or not of this model's channels and levels.
    """
    stem = Path(path).stem
    if path.endswith(".npy"):
        arrays = _read_array(path)
        digits = len(str(len(arrays) - 1))
        names = [stem] if len(arrays) == 1 else [f"{stem}-{n:0{digits}d}" for n in range(len(arrays))]
        if arrays.shape[1] != model.shape[0]:
            raise InputError(f"{path} has {arrays.shape[1]} channels, but this model's images have {model.shape[0]}")
        # Bytes stay bytes: there may be many images.
        arrays = np.ascontiguousarray(arrays) if arrays.dtype == np.uint8 else arrays.astype(np.int64)
        return list(zip(names, torch.from_numpy(arrays), strict=True))
    if not is_picture(model):
        kind = "codes" if model.codes else f"{model.shape[0]} channels of {model.levels} levels"
        raise InputError(f"{path}: this model is of {kind}, which no picture file holds: expected a .npy file of integers")
    x = read_picture(path)
    return [(stem, torch.from_numpy(_symbols(_in_channels(x, path, model.shape[0]), path, model.levels)))]


def write_image(x: Tensor, path: Path, model: AutoregressiveModel) -> Path:
    """Write an image (C, H, W): as path.png, or where no picture holds it as path.npy, (1, C, H, W); return where.

    It is written in its place, in a folder that is there: who fills a folder (`nextpixel.files.folder_aside`) keeps it whole.

    Raises:
        OSError: the file cannot be written.
    """
    if not is_picture(model):
        path = path.with_name(f"{path.name}.npy")
        np.save(path, x[None].numpy().astype(np.min_scalar_type(model.levels - 1)))
        return path
    path = path.with_name(f"{path.name}.png")
    values = brightness(model.levels)[x.numpy()]
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(path, format="PNG")
    return path


def is_picture(model: AutoregressiveModel) -> bool:
    """Whether a picture file holds this model's images."""
    return not model.codes and model.levels <= 256 and model.shape[0] in (1, 3)


def _read_array(path: str) -> np.ndarray:
    array = read_npy(path)
    return as_images(array[None] if array.ndim == 2 else array, path, DataSettings())


def _in_channels(x: np.ndarray, path: str, channels: int) -> np.ndarray:
    """A picture (1 or 3, H, W) with this many channels."""
    if len(x) < channels:
        return x.repeat(channels, axis=0)
    if len(x) > channels and (x != x[:1]).any():
        raise InputError(f"{path} is a colour picture, but this model's are grey: convert it first")
    return x[:channels]


def _symbols(x: np.ndarray, path: str, levels: int) -> np.ndarray:
    """Brightness to symbols, uint8 (C, H, W)."""
    values = brightness(levels)
    symbols = np.minimum(np.searchsorted(values, x), levels - 1).astype(np.uint8)
    wrong = np.argwhere(values[symbols] != x)
    if len(wrong):
        c, i, j = wrong[0]
        raise InputError(
            f"{path} has brightness {x[c, i, j]} at row {i}, column {j}, which is none of the {levels} of this model "
            f"({', '.join(map(str, values[:3]))} ...): nothing is rounded, so quantise it first"
        )
    return symbols
