"""Integer arrays: scikit-learn's digits, .npy and .npz files, read and written."""

from pathlib import Path

import numpy as np

from nextpixel.data.raw import SPLITS, RawImages, check_labels, split_name
from nextpixel.data.settings import MAX_LEVELS, DataSettings
from nextpixel.errors import InputError
from nextpixel.files import require_regular, write_aside
from nextpixel.pictures.read import centre_crop

IMAGE_KEYS = ("images", "x", "data", "codes")
LABEL_KEYS = ("labels", "label", "y")
LEVELS_KEY = "levels"


def load_digits(settings: DataSettings) -> dict[str, RawImages]:
    """Return the 1797 handwritten digits of scikit-learn: (1797, 1, 8, 8) in 17 levels.

    Example:
        >>> load_digits(DataSettings())["all"].images.shape
        (1797, 1, 8, 8)
    """
    from sklearn import datasets  # 1 s to import, and only this source needs it

    digits = datasets.load_digits()
    images = as_images(digits.images.astype(np.uint8), "digits", settings)
    return {"all": RawImages(images, digits.target.astype(np.int64), [str(n) for n in digits.target_names], levels=17)}


def load_npy(file: Path, settings: DataSettings) -> dict[str, RawImages]:
    """Map one array of symbols from disk; it is never read as a whole.

    Raises:
        InputError: not a .npy file of integers in one of the shapes of `as_images`.
    """
    array = read_npy(file, mapped=True)
    return {"all": RawImages(as_images(array, str(file), settings), None, None, settings.levels)}


def read_npy(file: str | Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, read or mapped from disk.

    Raises:
        InputError: it cannot be read.
    """
    require_regular(file)
    try:
        array = np.load(file, mmap_mode="r" if mapped else None)
    except Exception as error:  # numpy passes on whatever damage makes its parsers stumble upon
        raise InputError(f"cannot read {file} as a .npy array: {_reason(error)}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"cannot read {file} as a .npy array: it is an archive of several")
    return array


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__


def load_npz(file: Path, settings: DataSettings) -> dict[str, RawImages]:
    """Read arrays of symbols.

    Where a key names a split (train, val, valid, validation, test), every array of 3 or 4 dimensions is a split, labelled by
    `<its key>_label` or `<its key>_labels`. Otherwise the images are under images, x, data or codes, or are the only array
    that is not called labels, label, y or levels; and the first three of these hold the labels. `levels` is one integer, how
    many levels the values have; without it they have as many as in the settings. Other arrays are ignored.

    Raises:
        InputError: unreadable, no images to be found, two keys for one split, or arrays that do not fit.
    """
    require_regular(file)
    try:
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # numpy and zipfile pass on whatever damage makes them stumble upon
        raise InputError(f"cannot read {file} as a .npz archive: {_reason(error)}") from error
    levels = _levels(arrays.pop(LEVELS_KEY, None), file, settings)
    if any(split_name(key) in SPLITS for key in arrays):
        return _splits(arrays, file, settings, levels)
    key = _image_key(arrays, file)
    return {"all": _raw(arrays, key, LABEL_KEYS, file, settings, levels)}


def save_symbols(x: np.ndarray, path: Path, levels: int, codes: bool, labels: np.ndarray | None = None) -> None:
    """Write integers (N, C, H, W) in the smallest type that holds all levels: to .npy, or with all about them to .npz.

    A .npz holds `codes` or `images`, `levels`, and `labels` where there are any: `load_npz` reads it back.

    Raises:
        InputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "codes.npz"
        >>> save_symbols(np.zeros((2, 1, 4, 4), dtype=np.int64), path, levels=512, codes=True)
        >>> load_npz(path, DataSettings(levels=512))["all"].images.dtype
        dtype('uint16')
    """
    x = x.astype(np.min_scalar_type(levels - 1))
    with write_aside(path) as aside:
        if path.suffix == ".npy":
            np.save(aside, x)
        else:
            named = {"codes" if codes else "images": x, LEVELS_KEY: np.array(levels)}
            np.savez_compressed(aside, **named, **({} if labels is None else {"labels": labels}))


def _levels(given: np.ndarray | None, file: Path, settings: DataSettings) -> int:
    """Return how many levels the values of an archive have."""
    if given is None:
        return settings.levels
    if given.shape != () or given.dtype.kind not in "iu" or not 2 <= given <= MAX_LEVELS:
        what = f"{given}" if given.shape == () else f"{given.dtype} of shape {given.shape}"
        raise InputError(f"{file} ({LEVELS_KEY}) is {what}: expected one integer from 2 to {MAX_LEVELS}")
    return int(given)


def _splits(arrays: dict[str, np.ndarray], file: Path, settings: DataSettings, levels: int) -> dict[str, RawImages]:
    """Return the splits of an archive whose keys name them."""
    parts: dict[str, RawImages] = {}
    for key, array in arrays.items():
        name = split_name(key)
        if name not in SPLITS and array.ndim not in (3, 4):
            continue
        if name in parts:
            raise InputError(f"{file} has several arrays for the {name} split ({', '.join(arrays)}): keep one of them")
        parts[name] = _raw(arrays, key, (f"{key}_label", f"{key}_labels"), file, settings, levels)
    return parts


def _image_key(arrays: dict[str, np.ndarray], file: Path) -> str:
    """Return the key of the images in an archive without split names."""
    known = [key for key in IMAGE_KEYS if key in arrays]
    candidates = known or [key for key in arrays if key not in LABEL_KEYS]
    if len(candidates) != 1:
        keys = ", ".join(arrays) or "nothing"
        raise InputError(f"{file} holds {keys}: expected one array of images, or keys named train, validation, test")
    return candidates[0]


def _raw(
    arrays: dict[str, np.ndarray], key: str, label_keys: tuple[str, ...], file: Path, settings: DataSettings, levels: int
) -> RawImages:
    """Return the images under `key` with the labels under the first of `label_keys` that exists."""
    where = f"{file} ({key})"
    images = as_images(arrays[key], where, settings)
    labels = next((arrays[name] for name in label_keys if name in arrays), None)
    labels = None if labels is None else check_labels(labels, len(images), where)
    return RawImages(images, labels, None, levels)


def as_images(array: np.ndarray, where: str, settings: DataSettings) -> np.ndarray:
    """Return a view (N, C, H, W) of an integer or bool array, cropped as set.

    (N, H, W) has one channel. With 4 dimensions, channels come first: (N, C, H, W). Only where the last dimension is 1 or 3
    and the second is neither are the channels taken to be last, (N, H, W, C).

    Raises:
        InputError: another dtype or number of dimensions, no images, or a setting that only pictures can follow.

    Example:
        >>> as_images(np.zeros((5, 6, 7, 3), dtype=np.uint8), "x", DataSettings()).shape
        (5, 3, 6, 7)
        >>> as_images(np.zeros((5, 3, 6, 3), dtype=np.uint8), "x", DataSettings()).shape
        (5, 3, 6, 3)
    """
    for name, given in (("size", settings.size is not None), ("grayscale", settings.grayscale)):
        if given:
            raise InputError(f"--data.{name} is for pictures, but {where} is an array of symbols")
    if array.dtype.kind not in "iub":
        raise InputError(f"{where} holds {array.dtype}: expected integers (round or quantise them to 0..levels-1 first)")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(f"{where} has the shape {array.shape}: expected (N, H, W), (N, C, H, W) or (N, H, W, C), none of them 0")
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)
    return array if settings.crop is None else centre_crop(array, settings.crop, (2, 3), where)
