"""What would be read of a source, and what is in it: counts, sizes, classes, splits, duplicates and what is left out."""

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextpixel.data.folder import no_pictures
from nextpixel.data.raw import CHUNK, RawImages, pixel_hashes
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import Splits, by_position, carve, load_source
from nextpixel.errors import InputError, Notice, shown
from nextpixel.pictures.read import read_pages
from nextpixel.pictures.tree import PictureTree
from nextpixel.progress import track


@dataclass(frozen=True)
class Survey:
    """What a source holds.

    Args:
        splits: as they would be trained and reported on; None where there are too few images for three of them.
        counts: images of each split.
        drawn: the splits that are drawn from the others, because the source has none of them.
        shape: (C, H, W).
        levels: of the stored values.
        values: of these how many occur, and the smallest and the largest.
        grey: whether the three channels of all images are equal.
        classes: of each class, its images in each split; None without labels.
        doubles: images that equal another one.
        shared: of each split but train, how many images equal a training image.
        left_out: files of a folder that are not read, by their kind.
        notices: what the readers said.
    """

    splits: Splits | None
    counts: dict[str, int]
    drawn: list[str]
    shape: tuple[int, int, int]
    levels: int
    values: tuple[int, int, int]
    grey: bool
    classes: dict[str, dict[str, int]] | None
    doubles: int
    shared: dict[str, int]
    left_out: dict[str, int]
    notices: list[str]

    @property
    def images(self) -> int:
        return sum(self.counts.values())


def survey(settings: DataSettings, progress: bool = True) -> Survey:
    """Read a source as training does, and count.

    Raises:
        InputError: as `load_source`.

    Example:
        >>> found = survey(DataSettings(source="digits", levels=17), progress=False)
        >>> found.counts, found.shape, found.values, found.doubles
        ({'train': 1437, 'validation': 180, 'test': 180}, (1, 8, 8), (17, 0, 16), 0)
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        parts = load_source(settings.source, settings, progress)
    notices = [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]
    indices: dict[str, tuple[RawImages, np.ndarray | None]] = {name: (part, None) for name, part in parts.items()}
    splits, drawn = None, []
    try:
        splits = carve(dict(parts), settings)
    except InputError as error:
        notices.append(str(error))
    if splits is not None:
        indices = {name: (splits[name].raw, splits[name].indices) for name in splits}
        drawn = [name for name in ("validation", "test") if name not in parts]
    hashes = {name: pixel_hashes(part.images, chosen) for name, (part, chosen) in indices.items()}
    train = hashes.get("train", np.empty(0, np.uint64))
    shared = {name: int(np.isin(own, train).sum()) for name, own in hashes.items() if name != "train"}
    every = np.concatenate(list(hashes.values()))
    first = next(iter(parts.values()))
    folder = Path(settings.source).expanduser()
    return Survey(
        splits=splits,
        counts={name: len(own) for name, own in hashes.items()},
        drawn=drawn,
        shape=tuple(first.images.shape[1:]),
        levels=first.levels,
        values=_values([part.images for part in parts.values()]),
        grey=first.images.shape[1] == 3 and all(_is_grey(part.images) for part in parts.values()),
        classes=_classes(indices),
        doubles=len(every) - len(np.unique(every)),
        shared={name: number for name, number in shared.items() if number},
        left_out=dict(PictureTree(folder).left_out) if first.names is not None and folder.is_dir() else {},
        notices=notices,
    )


def count_shapes(folder: str | Path, settings: DataSettings, progress: bool = True) -> Counter[tuple[int, int, int]]:
    """How many pictures of a folder have each shape (C, H, W), by its readers, before any resize.

    Raises:
        InputError: no pictures, or one that cannot be used.
    """
    tree = PictureTree(Path(folder).expanduser())
    pages = tree.pages()
    if not pages:
        raise no_pictures(tree.root, tree)
    found: Counter[tuple[int, int, int]] = Counter()
    converted: Counter[str] = Counter()
    for page in track(pages, len(pages), f"looking at {shown(folder)}", progress):
        pictures = read_pages(page.file, [(str(page), page.page or 0)], grayscale=settings.grayscale, converted=converted)
        found[tuple(next(pictures).shape)] += 1
    return found


def _chunks(images: np.ndarray) -> list[slice]:
    step = max(1, CHUNK // max(1, int(np.prod(images.shape[1:]))))
    return [slice(first, first + step) for first in range(0, len(images), step)]


def _values(arrays: list[np.ndarray]) -> tuple[int, int, int]:
    """How many values occur, and the smallest and the largest."""
    counts = np.zeros(0, np.int64)
    for images in arrays:
        for chunk in _chunks(images):
            more = np.bincount(np.asarray(images[chunk]).ravel())
            if len(more) > len(counts):
                counts, more = more, counts
            counts[: len(more)] += more
    values = np.flatnonzero(counts)
    return len(values), int(values[0]), int(values[-1])


def _is_grey(images: np.ndarray) -> bool:
    return all((images[chunk] == images[chunk, :1]).all() for chunk in _chunks(images))


def _classes(indices: dict[str, tuple[RawImages, np.ndarray | None]]) -> dict[str, dict[str, int]] | None:
    """Of each class, by its name or number, its images in each split."""
    found: dict[str, dict[str, int]] = {}
    for name, (part, chosen) in indices.items():
        if part.labels is None:
            return None
        labels = part.labels if chosen is None else part.labels[chosen]
        names = part.class_names or [str(k) for k in range(int(part.labels.max()) + 1)]
        for k, number in enumerate(np.bincount(labels, minlength=len(names))):
            found.setdefault(names[k], {})[name] = int(number)
    return found


def as_json(found: Survey, settings: DataSettings) -> dict[str, Any]:
    """The figures as plain values."""
    channels, height, width = found.shape
    return {
        "source": settings.source,
        "images": found.images,
        "channels": channels,
        "height": height,
        "width": width,
        "levels": found.levels,
        "values": {"different": found.values[0], "least": found.values[1], "largest": found.values[2]},
        "grey": channels == 1 or found.grey,
        "splits": found.counts,
        "drawn": found.drawn,
        "classes": found.classes,
        "duplicates": {"images": found.doubles, "equal_to_training_images": found.shared},
        "left_out": found.left_out,
        "notices": found.notices,
    }


def describe(found: Survey, settings: DataSettings) -> list[str]:
    """The figures in lines."""
    channels, height, width = found.shape
    kind = {1: "grey", 3: "grey in three equal channels" if found.grey else "colour"}.get(channels, f"{channels} channels")
    different, least, largest = found.values
    number = f"{found.images} images" if found.images != 1 else "1 image"
    lines = [f"{shown(settings.source)}: {number} of {height}x{width} (height x width), {kind}"]
    lines += [f"levels: {found.levels}, of which {different} occur ({least} to {largest})"]
    if channels == 3 and found.grey:
        lines += ["        --data.grayscale true takes one of the three channels"]
    rule = "by their places" if by_position(settings) else "by a hash of each image"
    own = f" ({' and '.join(found.drawn)} drawn {rule})" if found.drawn else ""
    lines += [f"splits: {', '.join(f'{name} {number}' for name, number in found.counts.items())}{own}"]
    if found.classes is None:
        lines += ["classes: none"]
    else:
        sizes = {name: sum(counts.values()) for name, counts in found.classes.items()}
        names = [f"{shown(name, 40)} {number}" for name, number in sizes.items()]
        more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
        lines += [f"classes: {', '.join(names[:20])}{more}"]
    across = [f"{number} of {found.counts[name]} {name} images equal a training image" for name, number in found.shared.items()]
    lines += [f"duplicates: {'; '.join([f'{found.doubles} images equal another one' if found.doubles else 'none', *across])}"]
    return lines + found.notices


def mixed(source: str, shapes: Counter[tuple[int, int, int]]) -> list[str]:
    """Lines about a folder whose pictures differ in size or kind, and so are no data set yet."""
    sizes, kinds = Counter[str](), Counter[str]()
    for (channels, height, width), number in shapes.items():
        sizes[f"{height}x{width}"] += number
        kinds["grey" if channels == 1 else "colour"] += number
    most = [f"{number} of {size}" for size, number in sizes.most_common(8)]
    more = f", ... ({len(sizes)} sizes)" if len(sizes) > 8 else ""
    lines = [f"{shown(source)}: {shapes.total()} pictures: {', '.join(most)}{more} (height x width)"]
    if len(kinds) > 1:
        lines += [f"{kinds['grey']} are grey, {kinds['colour']} in colour: --data.grayscale true makes them alike"]
    if len(sizes) > 1:
        lines += ["training takes one size: give --data.size HxW (a resize) or --data.crop HxW (the centre)"]
    return lines


def look(settings: DataSettings, progress: bool = True) -> Survey | Counter[tuple[int, int, int]]:
    """The survey of a source; of a folder whose pictures differ in size or kind how many there are of each.

    Raises:
        InputError: as `survey`, for any other reason.
    """
    try:
        return survey(settings, progress)
    except InputError as error:
        folder = Path(settings.source).expanduser()
        if not folder.is_dir() or not any(text in str(error) for text in (" (height x width) where ", ": give --data.grayscale")):
            raise
        shapes = count_shapes(folder, replace(settings, size=None, crop=None), progress)
        if len(shapes) == 1:
            raise
        return shapes
