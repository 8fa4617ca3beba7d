"""A folder of picture files: sub-folders are splits, then classes."""

from pathlib import Path

import numpy as np

from nextpixel.data.raw import SPLITS, RawImages, split_name
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.pictures.read import stack_pictures

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"}


def load_folder(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read all pictures under `folder`, in the order of their sorted names.

    Where a top-level sub-folder is called train, val, valid, validation or test, every sub-folder is a split. Inside a split
    (or the folder itself) sub-folders are classes, numbered by their sorted names over all splits.

    Raises:
        InputError: no pictures, pictures beside split or class folders, or whatever `read_picture` and `stack_pictures` refuse.
    """
    parts = _split_folders(folder)
    class_names = sorted({child.name for part in parts.values() for child in _subfolders(part) if _pictures(child)})
    return {name: _load_part(part, class_names, settings, progress) for name, part in parts.items()}


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; {"all": folder} where there are no splits."""
    children = _subfolders(folder)
    if not any(split_name(child.name) in SPLITS for child in children):
        return {"all": folder}
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


def _load_part(folder: Path, class_names: list[str], settings: DataSettings, progress: bool) -> RawImages:
    """Read one split."""
    loose, classes = _own_pictures(folder), {child.name: _pictures(child) for child in _subfolders(folder)}
    files = [file for name in class_names for file in classes.get(name, [])]
    if loose and files:
        raise InputError(f"{folder} has pictures ({loose[0].name}) beside class folders ({files[0].parent.name}): keep one form")
    if not loose and not files:
        raise InputError(f"no pictures in {folder} (expected {', '.join(sorted(s[1:] for s in SUFFIXES))} files)")
    named = ((file, str(file)) for file in loose or files)
    images = stack_pictures(named, len(loose or files), settings, str(folder), progress)
    if loose:
        return RawImages(images, None, None, levels=256)
    labels = np.repeat(np.arange(len(class_names)), [len(classes.get(name, [])) for name in class_names])
    return RawImages(images, labels.astype(np.int64), class_names, levels=256)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _own_pictures(folder: Path) -> list[Path]:
    """Return the pictures that lie directly in `folder`, sorted."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures anywhere under `folder`, sorted."""
    return _own_pictures(folder) + [file for child in _subfolders(folder) for file in _pictures(child)]
