"""Integer arrays: scikit-learn's digits, .npy and .npz files, read and written."""

import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from nextpixel.data.raw import SPLITS, RawImages, check_labels, split_name
from nextpixel.data.settings import MAX_LEVELS, DataSettings
from nextpixel.errors import InputError, Notice, shown
from nextpixel.files import require_regular, write_aside
from nextpixel.pictures.read import centre_crop

IMAGE_KEYS = ("images", "x", "data", "codes", "image", "imgs", "img")
LABEL_KEYS = ("labels", "label", "y", "targets", "target")
LEVELS_KEY = "levels"
NAMES_KEY = "class_names"


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
    """Read arrays of symbols; only those that are needed, so that an array of Python objects beside them does no harm.

    The name of a split (train, val, valid, validation, dev, test) beside x, images, image, imgs, img, data or codes names its
    images, beside y, label(s) or target(s) its labels: x_train and y_train as of Keras, train_images and train_labels as of
    MedMNIST. The name of a split alone also names its images; then every other array of 3 or 4 dimensions is a split too.
    Otherwise the images are under one of those words, or are the only array that can be images. `levels` is one integer, how
    many levels the values have; without it they have as many as in the settings. Other arrays are left alone, with a notice
    where they look like images.

    Labels are integers (N,) or (N, 1), whose names `class_names` may list, strings, or one 1 in each row of (N, K).

    Raises:
        InputError: unreadable, no images to be found, two keys for one split, or arrays that do not fit.
    """
    archive = _Archive(file)
    levels = _levels(archive.read(LEVELS_KEY) if LEVELS_KEY in archive.headers else None, file, settings)
    found = _split_keys(archive) or {"all": (_image_key(archive), _first(archive, LABEL_KEYS))}
    used = {key for keys in found.values() for key in keys}
    left = [
        key for key, header in archive.headers.items() if key not in used and len(header.shape) > 2 and header.dtype.kind in "iub"
    ]
    if left:
        warnings.warn(f"{file}: left alone: {_listed(archive, left)}", Notice, stacklevel=2)
    return {name: _raw(archive, images, labels, settings, levels) for name, (images, labels) in found.items()}


class Header(NamedTuple):
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class _Archive:
    """A .npz file, read array by array.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        require_regular(file)
        self.file, self.headers = file, dict[str, Header]()
        try:
            with zipfile.ZipFile(file) as members:
                for name in members.namelist():
                    if name.endswith(".npy"):
                        with members.open(name) as member:
                            self.headers[name.removesuffix(".npy")] = _header(member)
        except Exception as error:  # numpy and zipfile pass on whatever damage makes them stumble upon
            raise InputError(f"cannot read {file} as a .npz archive: {_reason(error)}") from error

    def read(self, key: str) -> np.ndarray:
        """The array under a key; never by pickle, which may run any code."""
        if self.headers[key].dtype.hasobject:
            raise InputError(
                f"{self.file} ({shown(key)}) holds Python objects, which are not read: save it as numbers or strings (astype)"
            )
        try:
            with np.load(self.file) as archive:
                return archive[key]
        except Exception as error:
            raise InputError(f"cannot read {self.file} ({shown(key)}) as a .npz archive: {_reason(error)}") from error


def _header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return Header(shape, dtype)


def _listed(archive: _Archive, keys: Iterable[str]) -> str:
    """Names, types and shapes of some arrays, as messages show them."""
    listed = [f"{shown(key)} ({archive.headers[key].dtype} {archive.headers[key].shape})" for key in keys]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def save_symbols(
    x: np.ndarray,
    path: Path,
    levels: int,
    codes: bool,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write integers (N, C, H, W) in the smallest type that holds all levels: to .npy, or with all about them to .npz.

    A .npz holds `codes` or `images`, `levels`, and where there are any `labels` and `class_names`: `load_npz` reads it back.

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
            if labels is not None:
                named |= {"labels": labels, **({NAMES_KEY: np.array(class_names)} if class_names else {})}
            np.savez_compressed(aside, **named)


def _levels(given: np.ndarray | None, file: Path, settings: DataSettings) -> int:
    """Return how many levels the values of an archive have."""
    if given is None:
        return settings.levels
    if given.shape != () or given.dtype.kind not in "iu" or not 2 <= given <= MAX_LEVELS:
        what = f"{given}" if given.shape == () else f"{given.dtype} of shape {given.shape}"
        raise InputError(f"{file} ({LEVELS_KEY}) is {what}: expected one integer from 2 to {MAX_LEVELS}")
    return int(given)


def _role(key: str) -> tuple[str | None, str]:
    """The split and the kind of array that a key names.

    Example:
        >>> _role("x_train"), _role("val_labels"), _role("trainX"), _role("test"), _role("file_names")
        (('train', 'images'), ('validation', 'labels'), ('train', 'images'), ('test', 'split'), (None, ''))
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(".", "_").split("_")
    splits = [split_name(word) for word in words if split_name(word) in SPLITS]
    others = [word for word in words if split_name(word) not in SPLITS]
    if len(splits) != 1 or len(others) > 1:
        return None, ""
    if not others:
        return splits[0], "split"
    kind = "images" if others[0] in IMAGE_KEYS else "labels" if others[0] in LABEL_KEYS else ""
    return splits[0], kind


def _split_keys(archive: _Archive) -> dict[str, tuple[str, str | None]]:
    """The keys of the images and labels of each split; nothing where no key names the images of a split."""
    roles = {key: _role(key) for key in archive.headers}
    if not any(kind in ("images", "split") for _, kind in roles.values()):
        return {}
    every = any(kind == "split" for _, kind in roles.values())
    images, labels = dict[str, str](), dict[str, str]()
    for key, (split, kind) in roles.items():
        if kind == "labels" and split is not None:
            labels.setdefault(split, key)
        name = split if kind in ("images", "split") else key if every and kind != "labels" else None
        if name is None or (kind not in ("images", "split") and len(archive.headers[key].shape) not in (3, 4)):
            continue
        if name in images:
            keys = _listed(archive, (images[name], key))
            raise InputError(f"{archive.file} has several arrays for the {name} split, {keys}: keep one of them")
        images[name] = key
    own = {name: _first(archive, (f"{key}_label", f"{key}_labels")) for name, key in images.items()}
    return {name: (key, own[name] or labels.get(name)) for name, key in images.items()}


def _first(archive: _Archive, names: tuple[str, ...]) -> str | None:
    """The first of these keys that there is, in small letters or in large ones."""
    keys = {key.lower(): key for key in reversed(archive.headers)}
    return next((keys[name.lower()] for name in names if name.lower() in keys), None)


def _image_key(archive: _Archive) -> str:
    """Return the key of the images in an archive without split names."""
    candidates = [key for key in archive.headers if key.lower() not in (*LABEL_KEYS, LEVELS_KEY)]
    shaped = [key for key in candidates if len(archive.headers[key].shape) > 2 and archive.headers[key].dtype.kind in "iubf"]
    known = [key for key in candidates if key.lower() in IMAGE_KEYS]
    for some in ([key for key in known if key in shaped], known, shaped, candidates):
        if len(some) == 1:
            return some[0]
        if some:
            break
    keys = _listed(archive, archive.headers) or "nothing"
    wanted = "one array of images, or keys named train, validation, test or x_train, y_train, x_test, y_test"
    raise InputError(f"{archive.file} holds {keys}: expected {wanted}")


def _raw(archive: _Archive, key: str, label_key: str | None, settings: DataSettings, levels: int) -> RawImages:
    """Return the images under `key` with their labels."""
    where = f"{archive.file} ({shown(key)})"
    array = archive.read(key)
    images = as_images(array, where, settings)
    if label_key is None:
        return RawImages(images, None, None, levels)
    if archive.headers[label_key].dtype.hasobject:
        what = f"the labels {shown(label_key)} are Python objects, which are not read (astype(str) makes them strings)"
        warnings.warn(f"{archive.file}: {what}: images without labels", Notice, stacklevel=2)
        return RawImages(images, None, None, levels)
    labels = archive.read(label_key)
    if settings.layout is not None and "T" in settings.layout and labels.ndim and len(labels) < len(images):
        frames = array.shape[settings.layout.index("T")]  # each has its clip's label
        later = settings.layout.index("T") < (settings.layout + "N").index("N")
        labels = np.concatenate([labels] * frames) if later else np.repeat(labels, frames, 0)
    numbers, names = as_labels(labels, len(images), f"{archive.file} ({shown(label_key)})")
    return RawImages(images, numbers, names or _class_names(archive), levels)


def _class_names(archive: _Archive) -> list[str] | None:
    """The names of classes 0, 1, ... beside integer labels."""
    header = archive.headers.get(NAMES_KEY)
    if header is None or header.dtype.kind != "U" or len(header.shape) != 1:
        return None
    return [str(name) for name in archive.read(NAMES_KEY)]


def as_labels(labels: np.ndarray, count: int, where: str) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels int64 (count,) and the names of the classes, where there are any, of labels as they are usually stored.

    Integers (N,) or (N, 1); strings, whose classes are numbered by their sorted names; one 1 in each row of (N, K). Several
    labels for an image are left alone, with a notice.

    Raises:
        InputError: they are not one label per image.

    Example:
        >>> as_labels(np.array(["cat", "ant", "cat"]), 3, "a.npz")
        (array([1, 0, 1]), ['ant', 'cat'])
    """
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape == (count,) and labels.dtype.kind in "US":
        names, numbers = np.unique(labels, return_inverse=True)
        return numbers.reshape(count).astype(np.int64), [
            name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names
        ]
    if labels.ndim == 2 and len(labels) == count and labels.shape[1] > 1 and labels.dtype.kind in "iubf":
        if np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all():
            return labels.argmax(1).astype(np.int64), [str(k) for k in range(labels.shape[1])]
        what = f"the labels of {where} are several for each image, {labels.dtype} {labels.shape}"
        warnings.warn(f"{what}: images without labels (expected one integer for each)", Notice, stacklevel=2)
        return None, None
    return check_labels(labels, count, where), None


def as_images(array: np.ndarray, where: str, settings: DataSettings) -> np.ndarray:
    """Return a view (N, C, H, W) of an integer or bool array, cropped as set.

    (N, H, W) has one channel. With 4 dimensions one of them has the size of channels, 1 or 3, and nothing is guessed where
    both sides of the image do, or neither: then `settings.layout` must name the dimensions, as for more than 4 of them.

    Raises:
        InputError: another dtype or number of dimensions, no images, a layout that is missing or does not fit, or a setting
            that only pictures can follow.

    Example:
        >>> as_images(np.zeros((5, 6, 7, 3), dtype=np.uint8), "x", DataSettings()).shape
        (5, 3, 6, 7)
        >>> as_images(np.zeros((5, 2, 6, 7, 3), dtype=np.uint8), "x", DataSettings(layout="NTHWC")).shape
        (10, 3, 6, 7)
        >>> as_images(np.zeros((5, 3, 6, 3), dtype=np.uint8), "x", DataSettings())
        Traceback (most recent call last):
        nextpixel.errors.InputError: x has the shape (5, 3, 6, 3): give --data.layout NCHW (3 channels of 6x3) or NHWC (3 of 3x6)
    """
    for name, given in (("size", settings.size is not None), ("grayscale", settings.grayscale)):
        if given:
            raise InputError(f"--data.{name} is for pictures, but {where} is an array of symbols")
    if array.dtype.kind not in "iub":
        raise InputError(f"{where} holds {array.dtype}: expected integers (round or quantise them to 0..levels-1 first)")
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    array = _arranged(array, settings.layout or _layout(array.shape, where), where)
    return array if settings.crop is None else centre_crop(array, settings.crop, (2, 3), where)


def _layout(shape: tuple[int, ...], where: str) -> str:
    """The dimensions of an array, where its shape leaves no doubt."""
    has = f"{where} has the shape {shape}"
    if len(shape) > 4:
        raise InputError(
            f"{has}: name its dimensions with --data.layout, such as NTHWC (N images, or clips of T frames or slices)"
        )
    if len(shape) < 3 or 0 in shape:
        flat = math.isqrt(shape[1]) if len(shape) == 2 else 0
        hint = f"; reshape flat ones, perhaps to ({shape[0]}, {flat}, {flat})" if flat > 1 and flat**2 == shape[1] else ""
        raise InputError(f"{has}: expected (N, H, W), (N, C, H, W) or (N, H, W, C), none of them 0{hint}")
    if len(shape) == 3:
        if shape[2] in (3, 4) and min(shape[:2]) > 4:
            single = f"{has}: give --data.layout HWC (one image in {shape[2]} channels)"
            raise InputError(f"{single} or NHW ({shape[0]} images of {shape[1]}x{shape[2]})")
        return "NHW"
    _, a, b, c = shape
    rank_first, rank_last = (0 if size in (1, 3) else 1 if size in (2, 4) else 2 for size in (a, c))
    # 1 or 3 channels against 2, 4 or more; an image one place wide is none where the other reading has two sides.
    if rank_first == 0 and (rank_last > 0 or (min(a, b) == 1 < min(b, c))):
        return "NCHW"
    if rank_last == 0 and (rank_first > 0 or (min(b, c) == 1 < min(a, b))):
        return "NHWC"
    if rank_first == 1 and rank_last == 2:
        return "NCHW"
    raise InputError(f"{has}: give --data.layout NCHW ({a} channels of {b}x{c}) or NHWC ({c} of {a}x{b})")


def _arranged(array: np.ndarray, layout: str, where: str) -> np.ndarray:
    """A view (N, C, H, W) of an array whose dimensions are `layout`; frames T are images too."""
    if len(layout) != array.ndim or 0 in array.shape:
        raise InputError(
            f"{where} has the shape {array.shape}: --data.layout {layout} expects {len(layout)} sizes, none of them 0"
        )
    outer = [letter for letter in layout if letter in "NT"]  # in their order: so a map from disk stays a view
    order = [layout.index(letter) for letter in (*outer, *"C" * ("C" in layout), *"HW")]
    array = array.transpose(order)
    sizes = array.shape[len(outer) :] if "C" in layout else (1, *array.shape[len(outer) :])
    return array.reshape(math.prod(array.shape[: len(outer)]), *sizes)
