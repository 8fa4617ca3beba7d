"""A folder of picture files: sub-folders are splits, then classes."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from nextpixel.data.classes import in_order
from nextpixel.data.raw import SPLITS, RawImages, allocate, split_name
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError, Notice, shown
from nextpixel.pictures.deep import read_deep
from nextpixel.pictures.headers import SUFFIXES
from nextpixel.pictures.read import PREVIEWS, read_pages, read_picture
from nextpixel.pictures.tree import Page, PictureTree
from nextpixel.progress import track


def load_folder(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read all pictures under `folder`, in the order of their sorted names; each page and frame is an image.

    Where a sub-folder is called train, val, valid, validation or test, it and those beside it are splits: at the top, or
    deeper, beside a train folder, as in an unpacked archive. Inside a split (or the folder itself) sub-folders are classes,
    numbered by the order of their names over all splits. Files that are no pictures are left out, and a `Notice` counts them.

    Raises:
        InputError: no pictures, pictures beside split or class folders, or whatever `read_picture` and `stack_pictures` refuse;
            with `settings.strict`, a file that is left out.
    """
    tree = PictureTree(folder)
    tree.report(settings.strict)
    base, parts = _split_folders(folder, tree.files)
    depth = len(base.parts) + (list(parts) != ["all"])
    found = {file.parts[depth] for files in parts.values() for file in files if len(file.parts) > depth + 1}
    class_names = sorted(found) if settings.split_by == "position" else in_order(list(found))
    if not class_names and not any(parts.values()):
        raise no_pictures(folder, tree)
    converted: Counter[str] = Counter()
    loaded = {}
    for name, files in parts.items():
        where = folder / base if list(parts) == ["all"] else folder / base / (files[0].parts[depth - 1] if files else name)
        if not files:
            raise no_pictures(where, tree)
        loaded[name] = _load_part(where, tree, files, depth, class_names, settings, progress, converted)
    if previews := converted.pop(PREVIEWS, 0):
        further = f"{previews} further pictures inside JPEG files (MPO previews) left out"
        warnings.warn(f"{shown(folder)}: {further}", Notice, stacklevel=2)
    if converted:
        kinds = ", ".join(f"{number} {mode}" for mode, number in converted.most_common())
        warnings.warn(f"{shown(folder)}: {kinds} pictures converted to RGB", Notice, stacklevel=2)
    return loaded


def no_pictures(folder: Path, tree: PictureTree) -> InputError:
    """What to raise where a folder holds no pictures that can be read: the kinds that can, and what is left out."""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    left_out = f"; {tree.describe()}" if tree.left_out else ""
    return InputError(f"no pictures in {shown(folder)} (expected {kinds} files){left_out}")


def _split_folders(folder: Path, files: list[PurePosixPath]) -> tuple[PurePosixPath, dict[str, list[PurePosixPath]]]:
    """Return where below `folder` the split folders lie, and the files of each; {"all": files} where there are none.

    Raises:
        InputError: pictures lie outside of the split folders, or two folders are one split.
    """
    base = PurePosixPath()
    if not any(split_name(child) in SPLITS for child in _subfolders(folder)):
        below = _split_parents(folder, base)
        if not below:
            return base, {"all": files}
        base = below[0]
        outside = next((file for file in files if not file.is_relative_to(base)), None)
        if outside is not None:
            raise InputError(
                f"{shown(folder / base)} has split folders, but {shown(outside)} lies outside of them: put train, validation and "
                f"test folders at the top of {shown(folder)}, with class folders in each, or rename them where they are none"
            )
    depth = len(base.parts)
    loose = next((file for file in files if len(file.parts) == depth + 1), None)
    if loose is not None:
        raise InputError(f"{shown(folder / base)} has pictures ({shown(loose.name)}) beside split folders: move them into one")
    parts: dict[str, list[PurePosixPath]] = {}
    of_split: dict[str, str] = {}
    for child in _subfolders(folder / base):
        name = split_name(child)
        if name in parts:
            both = f"{shown(folder / base / of_split[name])} and {shown(folder / base / child)}"
            raise InputError(f"{both} are both the {name} split: keep one of them")
        parts[name], of_split[name] = [file for file in files if file.parts[depth] == child], child
    return base, parts


def _split_parents(folder: Path, below: PurePosixPath) -> list[PurePosixPath]:
    """The folders anywhere below `folder / below` that have a train folder and another split."""
    found = []
    for child in _subfolders(folder / below):
        names = {split_name(name) for name in _subfolders(folder / below / child)} & set(SPLITS)
        found += [below / child] if "train" in names and len(names) > 1 else _split_parents(folder, below / child)
    return found


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in `folder` that may hold pictures, sorted; links are not followed."""
    children = (child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())
    return sorted(child.name for child in children if not child.name.startswith("."))


def _load_part(
    folder: Path,
    tree: PictureTree,
    files: list[PurePosixPath],
    depth: int,
    class_names: list[str],
    settings: DataSettings,
    progress: bool,
    converted: Counter[str],
) -> RawImages:
    """Read one split, whose files are `depth` folders below that of the data."""
    loose = [file for file in files if len(file.parts) == depth + 1]
    if loose and len(loose) < len(files):
        beside = next(file for file in files if len(file.parts) > depth + 1).parent.name
        raise InputError(f"{shown(folder)} has pictures ({loose[0].name}) beside class folders ({beside}): keep one form")
    if not loose:
        files = [file for name in class_names for file in files if file.parts[depth] == name]
    pages = [Page(tree.root, file, None) for file in files] if is_deep(settings) else tree.pages(files)
    named = ((page, str(page)) for page in pages)
    images = stack_pictures(named, len(pages), settings, shown(folder), progress, converted)
    names = [page.name for page in pages]
    if loose:
        return RawImages(images, None, None, levels=256, names=names)
    numbers = {name: n for n, name in enumerate(class_names)}
    labels = np.array([numbers[page.path.parts[depth]] for page in pages], dtype=np.int64)
    return RawImages(images, labels, class_names, levels=256, names=names)


def stack_pictures(
    files: Iterable[tuple[Page | Path | BinaryIO, str]],
    total: int,
    settings: DataSettings,
    what: str,
    progress: bool,
    converted: Counter[str] | None = None,
) -> np.ndarray:
    """Decode `total` > 0 pictures, given with their names, straight into one array (total, C, H, W).

    It is uint8, or, where the settings give pictures more than 256 levels, uint16.

    `converted` counts what `read_picture` converts.

    Raises:
        InputError: a picture cannot be read or differs from the first in size or channels; the message names both.
    """
    if settings.layout is not None:
        raise InputError(
            f"--data.layout {settings.layout} names the dimensions of arrays, but {what} holds pictures: leave it out"
        )
    stacked: np.ndarray | None = None
    first_name = ""
    for n, (picture, name) in enumerate(track(_decoded(files, settings, converted), total, f"decoding {what}", progress)):
        if stacked is None:
            stacked, first_name = allocate((total, *picture.shape), picture.dtype), name
        _compare(picture.shape, name, stacked.shape[1:], first_name)
        stacked[n] = picture
    if stacked is None:
        raise InputError(f"{what} holds no pictures")
    return stacked


def _decoded(
    files: Iterable[tuple[Page | Path | BinaryIO, str]], settings: DataSettings, converted: Counter[str] | None
) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures with their names; pages of one file, which follow one another, are read while it is open once."""
    prepared = {"grayscale": settings.grayscale, "crop": settings.crop, "size": settings.size}
    if is_deep(settings):
        yield from ((read_deep(file.file if isinstance(file, Page) else file, name, **prepared), name) for file, name in files)
        return
    prepared["converted"] = converted
    for page, group in groupby(files, key=lambda named: named[0].path if isinstance(named[0], Page) else None):
        if page is None:
            yield from ((read_picture(file, name, **prepared), name) for file, name in group)
        else:
            pages = list(group)
            pictures = read_pages(pages[0][0].file, [(name, page.page or 0) for page, name in pages], **prepared)
            yield from zip(pictures, (name for _, name in pages), strict=True)


def is_deep(settings: DataSettings) -> bool:
    """Whether pictures are those of more than 8 bits."""
    return settings.source_levels is not None and settings.source_levels > 256


def _compare(shape: tuple[int, ...], name: str, first: tuple[int, ...], first_name: str) -> None:
    """Raise InputError where two shapes (C, H, W) differ."""
    colour = {1: "gray", 3: "RGB"}
    if shape[0] != first[0]:
        both = f"{shown(name)} is {colour[shape[0]]} where {shown(first_name)} is {colour[first[0]]}"
        raise InputError(f"{both}: give --data.grayscale true, or pictures of one kind")
    if shape != first:
        both = f"{shown(name)} is {shape[1]}x{shape[2]} (height x width) where {shown(first_name)} is {first[1]}x{first[2]}"
        raise InputError(f"{both}: give --data.size [H,W] or --data.crop [H,W]")
