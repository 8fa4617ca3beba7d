"""What a run was trained on: a hash of each training image, 8 bytes each, by which images are known again."""

from pathlib import Path

import numpy as np

from nextpixel.data.arrays import read_npy
from nextpixel.data.images import Images
from nextpixel.data.raw import pixel_hashes
from nextpixel.data.splits import Splits
from nextpixel.errors import InputError
from nextpixel.files import write_aside

TRAINED = "trained.npy"


def save_trained(images: Images, run: Path, further: bool = False) -> None:
    """Write RUN/trained.npy: the sorted hashes of the images' stored values, uint64 (N,); `further` to those it has."""
    hashes = pixel_hashes(images.raw.images, images.indices)
    before = read_trained(run) if further else None
    if before is not None:
        hashes = np.concatenate([before, hashes[~np.isin(hashes, before)]])
    with write_aside(run / TRAINED) as aside, open(aside, "wb") as file:
        np.save(file, np.sort(hashes))


def read_trained(run: str | Path) -> np.ndarray | None:
    """The hashes that a run keeps, uint64 (N,); None of a run of before, which keeps none.

    Raises:
        InputError: the file is something else.
    """
    path = Path(run) / TRAINED
    if not path.is_file():
        return None
    hashes = read_npy(path)
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise InputError(f"{path} holds {hashes.dtype} {hashes.shape}: expected hashes of images, uint64 (N,)")
    return hashes


def seen(images: Images, run: str | Path) -> str:
    """One line if images that are evaluated were trained on; else "". Without the run's hashes nothing can be said."""
    trained = read_trained(run)
    if trained is None or images.split == "train":
        return ""
    found = int(np.isin(pixel_hashes(images.raw.images, images.indices), trained).sum())
    return f"{found} of {len(images)} {images.split} images were trained on" if found else ""


def changed(images: Images, run: str | Path) -> str:
    """One line if the training images are others than those that a run began with; else ""."""
    trained = read_trained(run)
    if trained is None:
        return ""
    now = pixel_hashes(images.raw.images, images.indices)
    new, gone = int((~np.isin(now, trained)).sum()), int((~np.isin(trained, now)).sum())
    if not new and not gone:
        return ""
    counts = f"{new} training images are new, {gone} are gone"
    return f"the data have changed since this run began: {counts} (of {len(trained)})"


def shared(splits: Splits) -> str:
    """One line on images of the validation and test splits that equal a training image; else ""."""
    train = pixel_hashes(splits.train.raw.images, splits.train.indices)
    found = []
    for name in ("validation", "test"):
        images = splits[name]
        number = int(np.isin(pixel_hashes(images.raw.images, images.indices), train).sum())
        found += [f"{number} of {len(images)} {name} images"] if number else []
    return f"{' and '.join(found)} equal a training image" if found else ""
