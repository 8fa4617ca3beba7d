"""Train, validation and test: those of the source, and carved out of its training images where it lacks them.

From the name of a source to its stored images, split by split.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nextpixel.data.arrays import load_digits, load_npy, load_npz
from nextpixel.data.classes import with_classes
from nextpixel.data.folder import load_folder
from nextpixel.data.images import Images, load_digit_identities
from nextpixel.data.raw import RawImages, check_range, name_hash, pixel_hashes, split_name
from nextpixel.data.settings import FORMS, RELATIVE, DataSettings
from nextpixel.data.streams import TARS, is_mvtec, load_csv, load_mvtec, load_tars
from nextpixel.data.tables import HUB_ID, is_saved, load_hub, load_parquet, load_saved
from nextpixel.errors import InputError

FILES = (".npy", ".npz", ".parquet", ".tar", ".csv")


@dataclass(frozen=True)
class Splits:
    """The images to train on, to choose by and to report on, and the source's further splits by name."""

    train: Images
    validation: Images
    test: Images
    others: dict[str, Images] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(("train", "validation", "test", *self.others))

    def __getitem__(self, name: str) -> Images:
        """Return a split by its name or an alias of it (val, valid).

        Raises:
            InputError: there is no such split.
        """
        known = {"train": self.train, "validation": self.validation, "test": self.test, **self.others}
        return known[_known(name, list(known), self.train.settings.source)]


def load(settings: DataSettings, progress: bool = True) -> Splits:
    """Load `settings.source` with all three splits.

    A missing test or validation split is carved out of the training images (or of all images, where the source has one part)
    by a hash of the images and the seed, which moves no image when others come and go, or by their position, as
    `settings.split_by` says. `progress` shows a bar on a terminal.

    Raises:
        InputError: the source cannot be used, has no training images or too few, or its splits differ in shape or classes.

    Example:
        >>> splits = load(DataSettings(source="digits", levels=17))
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (1437, 180, 180)
    """
    return carve(load_source(settings.source, settings, progress), settings)


def carve(parts: dict[str, RawImages], settings: DataSettings) -> Splits:
    """All three splits of a source's own parts, as `load` makes them.

    Raises:
        InputError: as `load`.
    """
    parts = dict(parts)
    compare(parts, settings.source)
    pool = take_pool(parts, settings.source)
    shares = {name: getattr(settings, name) for name in ("test", "validation") if name not in parts}
    carved = _carve_positions(len(pool), shares, settings) if by_position(settings) else _carve(pool, shares, settings)
    _require_filled(carved, shares, settings)
    images = {name: Images(part, settings, split=name) for name, part in parts.items()}
    for name, indices in carved.items():
        whole = None if len(indices) == len(pool) else indices
        images[name] = Images(pool, settings, training=name == "train", split=name, indices=whole)
    return Splits(limited(images.pop("train")), images.pop("validation"), images.pop("test"), images)


def limited(images: Images) -> Images:
    """The training images, or a random choice of them where the settings limit their number.

    Example:
        >>> len(load(DataSettings(source="digits", levels=17, limit=100)).train)
        100
    """
    settings = images.settings
    if settings.limit is None or settings.limit >= len(images):
        return images
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(images))[: settings.limit])
    indices = chosen if images.indices is None else images.indices[chosen]
    return Images(images.raw, settings, training=images.training, split=images.split, indices=indices)


def load_one(settings: DataSettings, split: str, progress: bool = True) -> Images:
    """Load one split to evaluate on; a source of a single part is taken whole, whatever the split is called.

    Raises:
        InputError: the source cannot be used, or has no such split.

    Example:
        >>> len(load_one(DataSettings(source="digits", levels=17), "test"))
        1797
    """
    parts = load_source(settings.source, settings, progress)
    name = "all" if list(parts) == ["all"] else _known(split, list(parts), settings.source)
    return Images(parts[name], settings, split=name)


def _known(name: str, names: list[str], source: str) -> str:
    """Return the usual name of a split that must be one of `names`."""
    if split_name(name) not in names:
        raise InputError(f"{source} has no split {name!r}: it has {', '.join(names)}")
    return split_name(name)


def take_pool(parts: dict[str, RawImages], source: str) -> RawImages:
    """Take out of `parts` the images that missing splits are carved out of: the train split, or the only part.

    Raises:
        InputError: there are other splits, but none to train on.
    """
    pool = parts.pop("all" if list(parts) == ["all"] else "train", None)
    if pool is None:
        raise InputError(f"{source} has no train split: it has {', '.join(parts)}")
    return pool


def compare(parts: dict[str, RawImages], source: str) -> None:
    """Make sure that the splits are of one shape and one set of classes.

    Raises:
        InputError: they are not; the message names the ones that differ.
    """
    (first, reference), *others = parts.items()
    for name, part in others:
        if part.images.shape[1:] != reference.images.shape[1:]:
            shapes = f"{first} has {reference.images.shape[1:]} and {name} has {part.images.shape[1:]}"
            raise InputError(f"the splits of {source} differ in shape (C, H, W): {shapes}")
        if reference.class_names and part.class_names and reference.class_names != part.class_names:
            counts = f"{first} has {len(reference.class_names)} and {name} has {len(part.class_names)}"
            raise InputError(f"the splits of {source} name different classes or order them differently: {counts}")


def by_position(settings: DataSettings) -> bool:
    """Whether images go to splits by their position: by the old rule, or in the embedded sets, which never change."""
    return settings.split_by == "position" or settings.source in ("digits", "digits-identities")


def _carve(pool: RawImages, shares: dict[str, float], settings: DataSettings) -> dict[str, np.ndarray]:
    r"""Divide the images into the named shares and the rest, "train", by a threshold on the hash h of each.

    .. math:: \text{share } k \iff s_1 + ... + s_{k-1} \le h / 2^{64} < s_1 + ... + s_k

    A share that no image falls into, of a small set, gets the one that is nearest to it. Equal images go together.

    Raises:
        InputError: there are fewer different images than splits, and none is left to train on.
    """
    key = str(settings.seed).encode()
    if pool.names is None:
        identities = [int(value).to_bytes(8, "little") for value in pixel_hashes(pool.images)]
    else:
        identities = [name.encode("utf-8", "surrogateescape") for name in pool.names]
    places = np.array([name_hash(identity, key) for identity in identities], dtype=np.uint64) / 2.0**64
    order, start = np.argsort(places, kind="stable"), 0
    carved, end = {}, 0.0
    for name, share in shares.items():
        end += share
        stop = max(int(np.searchsorted(places[order], end)), start + (share > 0))
        carved[name], start = np.sort(order[start:stop]), min(stop, len(order))
    carved["train"] = np.sort(order[start:])
    different, splits = len(np.unique(places)), 1 + sum(share > 0 for share in shares.values())
    if not len(carved["train"]) and different < min(splits, len(pool)):
        what = f"{len(pool)} training images, of which {different} differ, and equal images go into one split"
        raise InputError(f"{settings.source}: {what}: expected at least {splits} (--data.split_by position divides them)")
    return carved


def _carve_positions(count: int, shares: dict[str, float], settings: DataSettings) -> dict[str, np.ndarray]:
    """Divide 0..count-1 at random into the named shares and the rest, "train"; each sorted, to read memory maps in order."""
    order = np.random.default_rng(settings.seed).permutation(count)
    carved: dict[str, np.ndarray] = {}
    for name, share in shares.items():
        size = round(count * share)
        carved[name], order = np.sort(order[:size]), order[size:]
    carved["train"] = np.sort(order)
    return carved


def _require_filled(carved: dict[str, np.ndarray], shares: dict[str, float], settings: DataSettings) -> None:
    """Raise InputError where a split has no images."""
    empty = [name for name, indices in carved.items() if not len(indices)]
    if empty:
        asked = ", ".join(f"--data.{name} {share:g}" for name, share in shares.items()) or "no shares to carve out"
        count = sum(map(len, carved.values()))
        leave = "1 training image leaves" if count == 1 else f"{count} training images leave"
        raise InputError(f"{settings.source}: {leave} none for {' and '.join(empty)} ({asked})")


def absolute(source: str) -> str:
    """A local source as it can be found from any folder; any other as it is.

    Example:
        >>> absolute("digits"), absolute("owner/name")
        ('digits', 'owner/name')
    """
    path = Path(source).expanduser()
    local = path.exists() or (glob.has_magic(source) and glob.glob(str(path)))
    return str(path.absolute()) if local and source not in ("", "digits", "digits-identities") else source


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
    return (
        parts if settings.split_by == "position" and settings.classes is None else with_classes(parts, source, settings.classes)
    )


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
        return _load_in(path, settings, progress)
    if path.is_file():
        return _load_files([path], settings, progress)
    if glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(str(path)))
        if not found:
            raise InputError(f"no file matches {source}")
        return _load_files(found, settings, progress)
    # A missing file can look like a hub id ("data/train.npz"): its suffix or its beginning shows that it is a file.
    if source[0] in "./~" or path.suffix in FILES or not HUB_ID.fullmatch(source):
        raise InputError(f"no file or folder {source!r} ({RELATIVE}): a source is {FORMS}")
    return load_hub(source, settings, progress)


def _load_in(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Choose the reader by what a folder holds."""
    if is_saved(folder):
        return load_saved(folder, settings, progress)
    for pattern in ("*.parquet", "data/*.parquet"):  # `data/`: a clone of a hub data set
        if tables := sorted(folder.glob(pattern)):
            return load_parquet(tables, settings, progress)
    if tars := sorted(file for file in folder.iterdir() if file.name.lower().endswith(TARS)):
        return load_tars(tars, settings, progress)
    reader = load_mvtec if is_mvtec(folder) else load_folder
    return reader(folder, settings, progress)


def _load_files(files: list[Path], settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read one array or table of paths, or any number of parquet files or tars."""
    suffixes = {file.suffix.lower() for file in files}
    if suffixes == {".parquet"}:
        return load_parquet(files, settings, progress)
    if all(file.name.lower().endswith(TARS) for file in files):
        return load_tars(files, settings, progress)
    if len(files) == 1 and suffixes == {".npy"}:
        return load_npy(files[0], settings)
    if len(files) == 1 and suffixes == {".npz"}:
        return load_npz(files[0], settings)
    if len(files) == 1 and suffixes <= {".csv", ".tsv"}:
        return load_csv(files[0], settings, progress)
    strange = next((file for file in files if file.suffix.lower() != ".parquet"), files[0])
    raise InputError(f"cannot use {strange} as a source: a source is {FORMS}; a glob may only match .parquet or .tar files")
