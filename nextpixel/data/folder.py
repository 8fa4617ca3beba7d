"""A folder of picture files: sub-folders are splits, then classes."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nextpixel.data.classes import in_order
from nextpixel.data.raw import SPLITS, RawImages, allocate, split_name
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.pictures.read import read_picture
from nextpixel.progress import track

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"}


def load_folder(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read all pictures under `folder`, in the order of their sorted names.

    Where a top-level sub-folder is called train, val, valid, validation or test, every sub-folder is a split. Inside a split
    (or the folder itself) sub-folders are classes, numbered by their sorted names over all splits.

    Raises:
        InputError: no pictures, pictures beside split or class folders, or whatever `read_picture` and `stack_pictures` refuse.
    """
    parts = _split_folders(folder)
    found = {child.name for part in parts.values() for child in _subfolders(part) if _pictures(child)}
    class_names = sorted(found) if settings.split_by == "position" else in_order(list(found))
    loaded = {name: _load_part(part, class_names, settings, progress) for name, part in parts.items()}
    start = len(folder.parts)
    return {name: (replace(part, names=["/".join(Path(n).parts[start:]) for n in part.names])) for name, part in loaded.items()}


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; {"all": folder} where there are no splits."""
    whole, children = folder, _subfolders(folder)
    if not any(split_name(child.name) in SPLITS for child in children):
        below = _split_parents(folder)
        if not below:
            return {"all": folder}
        folder, children = below[0], _subfolders(below[0])
        beside = next((file for file in _pictures(whole) if not file.is_relative_to(folder)), None)
        if len(below) > 1 or beside is not None:
            other = below[1] if len(below) > 1 else beside
            raise InputError(
                f"{folder} has split folders, but {other} lies outside of them: put train, validation and test folders "
                f"at the top of {whole}, with class folders in each, or rename them where they are none"
            )
    loose = _own_pictures(folder)
    if loose:
        raise InputError(f"{folder} has pictures ({loose[0].name}) beside split folders: move them into one of them")
    parts: dict[str, Path] = {}
    for child in children:
        name = split_name(child.name)
        if name in parts:
            raise InputError(f"{parts[name]} and {child} are both the {name} split: keep one of them")
        parts[name] = child
    return parts


def _split_parents(folder: Path) -> list[Path]:
    """The folders anywhere under `folder` that have a train folder and another split, as in an unpacked archive."""
    found = []
    for child in _subfolders(folder):
        names = {split_name(below.name) for below in _subfolders(child)} & set(SPLITS)
        found += [child] if "train" in names and len(names) > 1 else _split_parents(child)
    return found


def _load_part(folder: Path, class_names: list[str], settings: DataSettings, progress: bool) -> RawImages:
    """Read one split."""
    loose, classes = _own_pictures(folder), {child.name: _pictures(child) for child in _subfolders(folder)}
    files = [file for name in class_names for file in classes.get(name, [])]
    if loose and files:
        raise InputError(f"{folder} has pictures ({loose[0].name}) beside class folders ({files[0].parent.name}): keep one form")
    if not loose and not files:
        raise InputError(f"no pictures in {folder} (expected {', '.join(sorted(s[1:] for s in SUFFIXES))} files)")
    names = [str(file) for file in loose or files]
    named = ((file, str(file)) for file in loose or files)
    images = stack_pictures(named, len(loose or files), settings, str(folder), progress)
    if loose:
        return RawImages(images, None, None, levels=256, names=names)
    labels = np.repeat(np.arange(len(class_names)), [len(classes.get(name, [])) for name in class_names])
    return RawImages(images, labels.astype(np.int64), class_names, levels=256, names=names)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _own_pictures(folder: Path) -> list[Path]:
    """Return the pictures that lie directly in `folder`, sorted."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures anywhere under `folder`, sorted."""
    return _own_pictures(folder) + [file for child in _subfolders(folder) for file in _pictures(child)]


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
        picture = read_picture(file, name, grayscale=settings.grayscale, crop=settings.crop, size=settings.size)
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
