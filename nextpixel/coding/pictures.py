"""Files to compress and files that come out: pixels as they are, or arrays of symbols."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.coding.format.index import wrong_with
from nextpixel.data.arrays import as_images, read_npy
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError, shown
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import brightness
from nextpixel.pictures.read import count_pages, page_of, read_pages
from nextpixel.pictures.tree import PictureTree


def read_images(
    path: str, model: AutoregressiveModel, stem: str | None = None, layout: str | None = None
) -> list[tuple[str, Tensor]]:
    """The images of a file with their names: (C, H, W) symbols of this model.

    A picture (PNG, WebP, TIFF, PGM, PPM and what else Pillow reads, 8 bits, grey or RGB) is one image, turned by its EXIF data;
    of several pages or frames each is one, called NAME#1, NAME#2, ... FILE#2 is the second of FILE alone.
    Grey becomes RGB by repetition, RGB becomes grey only if it is grey already, and a palette becomes RGB: pixels keep their
    colours, the palette is not kept. A .npy array of integers is one image (H, W), or many, as in training: (N, H, W),
    (N, C, H, W) or (N, H, W, C), or as `layout` names its dimensions. `stem` is the name to give, by default the file's without
    its ending.

    Raises:
        InputError: unreadable, transparent, of more than 8 bits, or not of this model's channels and levels.
    """
    file, page = page_of(path)
    stem = Path(file).stem if stem is None else stem
    if path.endswith(".npy"):
        arrays = _read_array(path, layout)
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
    number = count_pages(file, path, previews=True)
    pages = {n: f"#{n + 1}" if number > 1 else "" for n in (range(number) if page is None else [page])}
    pictures = read_pages(file, [(f"{file}{suffix}", n) for n, suffix in pages.items()], lossless=True)
    found = []
    for x, suffix in zip(pictures, pages.values(), strict=True):
        name = shown(f"{file}{suffix}")
        found.append((stem + suffix, torch.from_numpy(_symbols(_in_channels(x, name, model.shape[0]), name, model.levels))))
    return found


def find_images(arguments: Sequence[str], strict: bool = False) -> list[tuple[str, str]]:
    """The files that are meant and their names in an archive; of folders the pictures at any depth, or their .npy arrays.

    A name is a file's without its ending; where two would be the same, and below folders, with the folders below the one that
    all have in common. A `Notice` counts the files of a folder that are left out.

    Raises:
        InputError: a folder without pictures, or a name that no archive can hold; with `strict`, a file that is left out.

    Example:
        >>> find_images(["d/a/x.png", "d/b/x.png"])
        [('d/a/x.png', 'a/x'), ('d/b/x.png', 'b/x')]
    """
    files: list[str] = []
    for argument in arguments:
        if not os.path.isdir(argument):
            files.append(argument)
            continue
        tree = PictureTree(Path(argument))
        if not tree.files:  # what an archive of codes, or of more than 256 levels, was unpacked to
            tree = PictureTree(Path(argument), arrays=True)
        if not tree.files:
            raise InputError(f"no pictures in {shown(argument)}{': ' if tree.left_out else ''}{tree.describe()}")
        tree.report(strict)
        files += [str(tree.root / path) for path in tree.files]
    found = list(zip(files, _names(files, arguments), strict=True))
    for file, name in found:
        if wrong := wrong_with(name):
            raise InputError(f"cannot store {shown(file)} under its name: {wrong}; rename it")
    return found


def _names(files: Sequence[str], arguments: Sequence[str]) -> list[str]:
    paths = [Path(page_of(file)[0]) for file in files]
    stems = [path.stem for path in paths]
    if not any(map(os.path.isdir, arguments)):
        pages = [page_of(file)[1] for file in files]
        if len(set(zip(stems, pages, strict=True))) == len(files):
            return stems
    if len(arguments) == 1:
        root = os.path.abspath(arguments[0])
    else:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(argument)) for argument in arguments])
    return unique_names([Path(os.path.relpath(os.path.abspath(path), root)) for path in paths])


def unique_names(paths: Sequence[PurePath]) -> list[str]:
    """Relative paths without their endings; with them, where two would be the same.

    Example:
        >>> unique_names([PurePath("a/x.png"), PurePath("b/x.png"), PurePath("b/x.tif")])
        ['a/x', 'b/x.png', 'b/x.tif']
    """
    counts = Counter(path.with_suffix("") for path in paths)
    return [(path if counts[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix() for path in paths]


def write_image(x: Tensor, folder: Path, name: str, model: AutoregressiveModel) -> Path:
    """Write an image (C, H, W) into a folder: as name.png, or where no picture holds it as name.npy, (1, C, H, W); return where.

    The folders of its name are made, but never the folder itself: made again, it would hold the later images only. Who fills a
    folder (`nextpixel.files.folder_aside`) keeps it whole.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / name
    for parent in reversed(path.relative_to(folder).parents[:-1]):
        (folder / parent).mkdir(exist_ok=True)
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


def _read_array(path: str, layout: str | None) -> np.ndarray:
    array = read_npy(path)
    single = layout is None and array.ndim == 2
    return as_images(array[None] if single else array, path, DataSettings(layout=layout))


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
