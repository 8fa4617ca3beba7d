"""Images as they are stored: one integer array per split, in memory or on disk, before any quantisation.

From stored values to symbols: quantisation and binarisation.
"""

import errno
import hashlib
import math
import os
import tempfile
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from torch import Tensor

from nextpixel.errors import InputError

MEMORY_LIMIT = 2**30  # bytes; a larger array is decoded into a temporary file
CHUNK = 2**24  # values that are looked at, or written, together

SPLIT_ALIASES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class RawImages:
    """The stored images of one split.

    Args:
        images: Integers (N, C, H, W) in 0..levels-1; may be a memory map.
        labels: Class of each image, int64 (N,), or None.
        class_names: Name of each class, or None.
        levels: How many levels the stored values have.
        names: Path of each image's file within the source, or None where images have none.
        vectors: Numbers that come with each image, float32 (N, D), or None.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None
    levels: int
    names: list[str] | None = None
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


def pixel_hashes(images: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
    """A hash of the stored values of each image (of the chosen ones), uint64 (N,): equal images have equal hashes.

    Neither the type of the integers nor the layout in memory matters. 64 bits: among a million images two different ones share a
    hash with probability 3e-8.

    Example:
        >>> one = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
        >>> bool((pixel_hashes(one)[[1]] == pixel_hashes(one.astype(np.int64), np.array([1]))).all())
        True
    """
    chosen = range(len(images)) if indices is None else indices
    shape = repr(tuple(images.shape[1:])).encode()
    found = np.empty(len(chosen), dtype=np.uint64)
    for n, k in enumerate(chosen):
        found[n] = name_hash(np.ascontiguousarray(images[k], dtype="<u2").tobytes(), shape)
    return found


def name_hash(what: bytes, key: bytes) -> int:
    """64 bits of blake2b of `what`, for this key of at most 64 bytes."""
    return int.from_bytes(hashlib.blake2b(what, digest_size=8, key=key[:64]).digest(), "little")


def split_name(name: str) -> str:
    """Return the one name that nextpixel uses for a split; names that are no alias are kept.

    Example:
        >>> split_name("valid"), split_name("test"), split_name("gallery")
        ('validation', 'test', 'gallery')
    """
    return SPLIT_ALIASES.get(name.lower(), name.lower() if name.lower() in SPLITS else name)


def allocate(shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Return an empty array of this shape; above `MEMORY_LIMIT` it lies in a temporary file.

    The file has no name any more when this returns (on systems that allow it), so that it vanishes with the process, however
    that ends. TMPDIR chooses its disk, which is reserved here: a program that writes to a mapped page for which there is no room
    is killed by the system.

    Raises:
        InputError: the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MEMORY_LIMIT:
        return np.empty(shape, dtype=dtype)
    folder = "any temporary folder"
    try:
        folder = tempfile.gettempdir()
        file = tempfile.TemporaryFile(prefix="nextpixel-", dir=folder)  # noqa: SIM115 (the map keeps it open)
        _reserve(file, size)
    except OSError as error:
        reason = f"cannot write {size / 2**30:.3g} GiB of decoded images to {folder}: {error.strerror or error}"
        raise InputError(f"{reason}; let TMPDIR name a folder on a larger disk") from error
    return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Make a new file so long that there is room for all of it on its disk."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # not every system, nor every disk, can do so without writing
        if isinstance(error, OSError) and error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
        zeros = bytes(CHUNK)
        for start in range(0, size, CHUNK):
            file.write(zeros[: size - start])
        file.flush()


def check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return `labels` as int64 (count,).

    Raises:
        InputError: they are not one integer >= 0 per image.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"the labels of {where} are {labels.dtype} of shape {labels.shape}: expected {count} integers")
    if count and labels.min() < 0:
        raise InputError(f"label {labels.min()} of image {int(labels.argmin())} of {where}: expected 0 or more")
    return labels.astype(np.int64)


def check_range(images: np.ndarray, levels: int, where: str, setting: str = "--data.levels") -> None:
    """Make sure that all values are in 0..levels-1, as given by `setting`, reading a memory map part by part.

    Raises:
        InputError: a value lies outside; the message gives it, its place, and what was expected.

    Example:
        >>> check_range(np.array([[[[0, 1], [2, 3]]]]), levels=3, where="codes.npy", setting="levels")
        Traceback (most recent call last):
        nextpixel.errors.InputError: value 3 in codes.npy (image 0, channel 0, row 1, column 1): expected 0 to 2 (levels 3)
    """
    bounds = np.iinfo(images.dtype)
    if bounds.min >= 0 and bounds.max < levels:
        return
    step = max(1, CHUNK // max(1, int(np.prod(images.shape[1:]))))
    for first in range(0, len(images), step):
        chunk = images[first : first + step]
        if chunk.min() >= 0 and chunk.max() < levels:
            continue
        image, c, i, j = np.argwhere((chunk < 0) | (chunk >= levels))[0]
        value, place = chunk[image, c, i, j], f"image {first + image}, channel {c}, row {i}, column {j}"
        hint = _way_out(images, levels) if setting == "--data.levels" else ""
        raise InputError(f"value {value} in {where} ({place}): expected 0 to {levels - 1} ({setting} {levels}){hint}")


def _way_out(images: np.ndarray, levels: int) -> str:
    """The way out where values exceed the model's levels: how many levels they may have, to be quantised."""
    largest, least = int(images.max()), int(images.min())
    stored = next((n for n in (2**bits for bits in (8, 10, 12, 14, 16)) if n > max(largest, levels)), None)
    if least < 0 or stored is None:
        return ""
    return f"; values 0 to {stored - 1} are quantised with --data.source_levels {stored}"


def quantise(x: Tensor, source_levels: int, levels: int) -> Tensor:
    """Return floor(x * levels / source_levels) in exact integer arithmetic; int64 of any shape.

    Example:
        >>> quantise(torch.tensor([0, 63, 64, 255]), 256, 4)
        tensor([0, 0, 1, 3])
    """
    return x if levels == source_levels else torch.div(x * levels, source_levels, rounding_mode="floor")


def threshold(x: Tensor, source_levels: int) -> Tensor:
    """Return 1 where x >= source_levels / 2, else 0; int64 of any shape.

    Example:
        >>> threshold(torch.tensor([0, 127, 128, 255]), 256)
        tensor([0, 0, 1, 1])
    """
    return (2 * x >= source_levels).long()


def draw_bits(x: Tensor, source_levels: int, uniform: Tensor) -> Tensor:
    """Return 1 with probability x / (source_levels - 1), using one number of [0, 1) per value; int64 of any shape.

    Example:
        >>> draw_bits(torch.tensor([0, 128, 255]), 256, torch.tensor([0.0, 0.5, 0.999]))
        tensor([0, 1, 1])
    """
    return (uniform.double() * (source_levels - 1) < x).long()


def fixed_uniforms(seed: int, split: str, indices: np.ndarray, places: int) -> Tensor:
    """Return numbers of [0, 1), float64 (B, places), that depend only on the seed, the split, the image and the place.

    They are places of one SplitMix64 sequence (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
    which can be entered anywhere: no image needs the numbers of another, so neither order nor batches matter.

    Example:
        >>> one, both = fixed_uniforms(0, "train", np.array([7]), 4), fixed_uniforms(0, "train", np.array([2, 7]), 4)
        >>> torch.equal(one[0], both[1])
        True
    """
    start = np.frombuffer(hashlib.blake2b(f"{seed}/{split}".encode(), digest_size=8).digest(), dtype="<u8")[0]
    place = indices.astype(np.uint64)[:, None] * np.uint64(places) + np.arange(1, places + 1, dtype=np.uint64)
    z = start + place * np.uint64(0x9E3779B97F4A7C15)  # uint64 wraps around, as it should
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)
