"""From the name of a source to its stored images, split by split."""

import glob
from dataclasses import replace
from pathlib import Path

from nextpixel.data.arrays import load_digits, load_npy, load_npz
from nextpixel.data.folder import load_folder
from nextpixel.data.hub import HUB_ID, load_hub
from nextpixel.data.orientations import load_digit_identities
from nextpixel.data.parquet import load_parquet
from nextpixel.data.raw import RawImages, check_range
from nextpixel.data.settings import FORMS, DataSettings
from nextpixel.errors import InputError

FILES = (".npy", ".npz", ".parquet")


def load_source(source: str, settings: DataSettings, progress: bool = False) -> dict[str, RawImages]:
    """Return the splits of `source` under the names train, validation, test and its own others; a single part is called "all".

    "digits" and "digits-identities" are always scikit-learn's set: write "./digits" for a folder of that name.

    Raises:
        InputError: the source cannot be found or used, or holds values outside of its levels.

    Example:
        >>> parts = load_source("digits", DataSettings())
        >>> list(parts), parts["all"].levels
        (['all'], 17)
    """
    settings.check()
    parts = _load(source, settings, progress)
    if len(parts) == 1:
        parts = {"all": next(iter(parts.values()))}
    if settings.source_levels is not None:
        parts = {name: replace(part, levels=settings.source_levels) for name, part in parts.items()}
    setting = "--data.levels" if settings.source_levels is None else "--data.source_levels"
    for name, part in parts.items():
        check_range(part.images, part.levels, source if name == "all" else f"{source} ({name})", setting)
    return parts


def _load(source: str, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Choose the reader by what `source` is."""
    if source == "digits":
        return load_digits(settings)
    if source == "digits-identities":
        return load_digit_identities(settings)
    if not source:
        raise InputError(f"the source of the data is empty: a source is {FORMS}")
    path = Path(source).expanduser()
    if path.is_dir():
        tables = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))  # `data/`: a clone of a hub data set
        return load_parquet(tables, settings, progress) if tables else load_folder(path, settings, progress)
    if path.is_file():
        return _load_files([path], settings, progress)
    if glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(str(path)))
        if not found:
            raise InputError(f"no file matches {source}")
        return _load_files(found, settings, progress)
    # A missing file can look like a hub id ("data/train.npz"): its suffix or its beginning tells that it is a file.
    if source[0] in "./~" or path.suffix in FILES or not HUB_ID.fullmatch(source):
        raise InputError(f"no file or folder {source!r}: a source is {FORMS}")
    return load_hub(source, settings, progress)


def _load_files(files: list[Path], settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read one array, or any number of parquet files."""
    suffixes = {file.suffix.lower() for file in files}
    if suffixes == {".parquet"}:
        return load_parquet(files, settings, progress)
    if len(files) == 1 and suffixes == {".npy"}:
        return load_npy(files[0], settings)
    if len(files) == 1 and suffixes == {".npz"}:
        return load_npz(files[0], settings)
    strange = next((file for file in files if file.suffix.lower() != ".parquet"), files[0])
    raise InputError(f"cannot use {strange} as a source: a source is {FORMS}; a glob may only match .parquet files")
