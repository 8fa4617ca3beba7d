"""The baselines of a model, in bits per dimension of the same images: no model, a histogram per place, PNG, WebP and JPEG XL."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, features
from rich.console import Console
from rich.table import Table

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.files import read_bytes, write_aside
from nextpixel.pictures.grid import brightness
from nextpixel.scoring.evaluation import Evaluation

BATCH = 1024
MOST_FILES = 1000  # images that the codecs get: their mean is then known to about a percent
# A sheet's largest side, pixels: the header is long forgotten there, memory and time stay small, WebP could do 16383.
SHEET_SIDE = 4096
JPEG_XL_EFFORTS = (3, 5, 7, 9, 10)
WEBP_SIDE = 16383

# Of a stored marginal: what is in its file beside the counts, and of how many images these may be.
HEADER = 4096
MOST_IMAGES = 2**40

Encoder = Callable[[np.ndarray], bytes]  # symbols, uint8 (H, W) or (H, W, 3) -> a file's bytes


@dataclass(frozen=True)
class Baseline:
    """One line of a report: bits per dimension, or None with the reason in `note`."""

    name: str
    bits_per_dim: float | None
    note: str


def all_baselines(train_marginal: "PixelMarginal", images: Images, codes: bool = False) -> list[Baseline]:
    """Every baseline on the images of one split; for codes without order those that read no brightness into them.

    Raises:
        InputError: there are no images, or the marginal was fitted to other levels.
    """
    without_order = [
        Baseline("uniform", uniform(images.levels), f"log2 of {images.levels} levels"),
        _marginal(train_marginal, images),
    ]
    if codes:
        return [*without_order, Baseline("PNG, WebP, JPEG XL", None, "not for codes: they expect near numbers to be alike")]
    return [*without_order, *png(images), *webp(images), *jpeg_xl(images)]


def _marginal(marginal: "PixelMarginal", images: Images) -> Baseline:
    """The pixel marginal, which is left out for images of another size than the training images'."""
    if marginal.levels == images.levels and marginal.shape[0] == images.shape[0] and marginal.shape != tuple(images.shape):
        mine, theirs = (f"{shape[1]}x{shape[2]}" for shape in (images.shape, marginal.shape))
        return Baseline("pixel marginal", None, f"left out: it is for images of {theirs}, these are {mine} (height x width)")
    return Baseline("pixel marginal", marginal.bits_per_dim(images), "a histogram per place, from the training images")


def uniform(levels: int) -> float:
    """log2(levels): the bits per dimension of a code without a model.

    Example:
        >>> uniform(256)
        8.0
    """
    return math.log2(levels)


class PixelMarginal:
    r"""Independent places, each with its own histogram, smoothed by one half (Krichevsky and Trofimov 1981).

    .. math:: p(x_{cij} = s) = \frac{n_{cij}(s) + 1/2}{N + L / 2}

    with n(s) how often symbol s stood at that place in N training images, and L levels.

    Args:
        counts: n, integers (C, H, W, L).

    Example:
        >>> marginal = PixelMarginal(np.array([[[[3, 0], [1, 2]]]]))  # 3 images of 1 x 2 bits
        >>> marginal.pmf[0, 0]
        array([[0.875, 0.125],
               [0.375, 0.625]])
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts
        self.shape, self.levels = counts.shape[:3], counts.shape[3]

    @property
    def pmf(self) -> np.ndarray:
        """Probabilities, float64 (C, H, W, L)."""
        smoothed = self.counts + 0.5
        return smoothed / smoothed.sum(axis=-1, keepdims=True)

    @classmethod
    def fit(cls, images: Images) -> "PixelMarginal":
        """Count the symbols of every place.

        Raises:
            InputError: there are no images.
        """
        _require_some(images)
        dims, levels = math.prod(images.shape), images.levels
        counts = np.zeros(dims * levels, dtype=np.int64)
        for x in _batches(images):
            counts += np.bincount((np.arange(dims) * levels + x.reshape(len(x), dims)).ravel(), minlength=dims * levels)
        return cls(counts.reshape(*images.shape, levels))

    def bits_per_dim(self, images: Images) -> float:
        """Mean of -log2 p(x) over images and places.

        Raises:
            InputError: there are no images, or they have another shape or other levels than the training images.
        """
        _require_some(images)
        if (tuple(images.shape), images.levels) != (self.shape, self.levels):
            raise InputError(
                f"the pixel marginal was fitted to images {self.shape} with {self.levels} levels, "
                f"these are {tuple(images.shape)} with {images.levels} levels"
            )
        bits = -np.log2(self.pmf).reshape(-1, self.levels)
        places = np.arange(len(bits))
        total = sum(bits[places, x.reshape(len(x), -1)].sum() for x in _batches(images))
        return float(total) / (len(images) * len(places))

    def save(self, path: str | Path) -> None:
        """Write the counts to a compressed .npz file."""
        with write_aside(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(file, counts=self.counts)

    @classmethod
    def load(cls, path: str | Path, shape: tuple[int, int, int], levels: int) -> "PixelMarginal":
        """Read what `save` wrote of images of this shape (C, H, W) and so many levels.

        Raises:
            InputError: the file is missing, damaged, of other images, or something else.
        """
        expected = (*shape, levels)
        most = math.prod(expected) * np.dtype(np.int64).itemsize + HEADER
        try:
            data = io.BytesIO(read_bytes(path, most))
            with zipfile.ZipFile(data) as archive:
                size = archive.getinfo("counts.npy").file_size
            if size > most:
                raise InputError(f"it declares {size} bytes of counts, expected at most {most}")
            with np.load(data) as file:
                counts = file["counts"]
        except Exception as error:  # zipfile and numpy raise whatever damage makes them stumble upon
            raise InputError(f"cannot read the pixel marginal {path}: {' '.join(str(error).split())[:200]}") from error
        if counts.dtype.kind not in "iu" or counts.shape != expected:
            found = f"{counts.dtype} {counts.shape}"
            raise InputError(f"{path} is no pixel marginal of such images: expected integers {expected}, not {found}")
        if counts.min() < 0 or counts.max() > MOST_IMAGES or np.ptp(counts.sum(-1, dtype=np.int64)):
            raise InputError(f"{path} is no pixel marginal: expected counts that sum to the same number of images at each place")
        return cls(counts)


def png(images: Images) -> list[Baseline]:
    """Lossless PNG, optimised: a file per image, and one sheet of all images, where the header weighs nothing.

    Tried are symbols as they are, symbols stretched over 0..255 and, for grey of up to 16 levels, bit depth 1, 2 or 4;
    the smallest total counts.
    """
    return _codec("PNG", _png_encoders(images.levels, images.shape[0]), images)


def _png_encoders(levels: int, channels: int) -> dict[str, Encoder]:
    encoders = _storages(levels, lambda picture: _file(Image.fromarray(picture), format="PNG", optimize=True))
    if channels == 1 and levels <= 16:
        bits = 1 if levels == 2 else 2 if levels <= 4 else 4
        encoders[f"bit depth {bits}"] = lambda picture: _packed_png(picture, levels)
    return encoders


def webp(images: Images) -> list[Baseline]:
    """Lossless WebP at its greatest effort: a file per image, and one sheet of all images, where the header weighs nothing.

    Tried are symbols as they are and symbols stretched over 0..255; the smallest total counts.
    """
    if not features.check("webp"):
        return [Baseline("WebP", None, "no WebP: this Pillow is built without it")]
    if max(images.shape[1:]) > WEBP_SIDE:
        return [Baseline("WebP", None, f"no WebP for images {images.shape}: it ends at {WEBP_SIDE} pixels a side")]
    return _codec("WebP", _webp_encoders(images.levels), images)


def _webp_encoders(levels: int) -> dict[str, Encoder]:
    options = {"format": "WEBP", "lossless": True, "quality": 100, "method": 6}
    return _storages(levels, lambda picture: _file(Image.fromarray(picture), **options))


def jpeg_xl(images: Images) -> list[Baseline]:
    """Lossless JPEG XL, which needs the extra `bench`: a file per image, and one sheet of all images.

    Tried are several efforts, since for small pictures more effort is often larger, and both storages as by `webp`.
    """
    try:
        import imagecodecs
    except ImportError:
        return [Baseline("JPEG XL", None, "no JPEG XL: install the extra bench")]
    return _codec("JPEG XL", _jpeg_xl_encoders(images.levels, imagecodecs.jpegxl_encode), images)


def _jpeg_xl_encoders(levels: int, encoder: Callable[..., bytes]) -> dict[str, Encoder]:
    encoders = {}
    for effort in JPEG_XL_EFFORTS:
        encode = partial(encoder, lossless=True, effort=effort)
        encoders |= {f"{stored}, effort {effort}": made for stored, made in _storages(levels, encode).items()}
    return encoders


def codec_nats(x: np.ndarray, levels: int) -> np.ndarray:
    """Nats of each image (N, C, H, W) as a file of the general lossless codec that makes the smallest: PNG, WebP or JPEG XL.

    Raises:
        InputError: images that these do not take: other than 1 or 3 channels, or more than 256 levels.

    Example:
        >>> codec_nats(np.zeros((2, 1, 8, 8), dtype=np.int64), levels=2).shape
        (2,)
    """
    if x.shape[1] not in (1, 3) or levels > 256:
        raise InputError(f"PNG, WebP and JPEG XL take 1 or 3 channels and up to 256 levels, not {x.shape[1]} and {levels}")
    encoders = list(_png_encoders(levels, x.shape[1]).values())
    if features.check("webp") and max(x.shape[2:]) <= WEBP_SIDE:
        encoders += _webp_encoders(levels).values()
    try:
        import imagecodecs
    except ImportError:
        pass
    else:
        encoders += _jpeg_xl_encoders(levels, imagecodecs.jpegxl_encode).values()
    pictures = np.ascontiguousarray(x.astype(np.uint8).transpose(0, 2, 3, 1))
    smallest = [min(len(encode(one[..., 0] if one.shape[-1] == 1 else one)) for encode in encoders) for one in pictures]
    return np.array(smallest) * 8 * math.log(2)


def _codec(name: str, encoders: dict[str, Encoder], images: Images) -> list[Baseline]:
    _require_some(images)
    channels, levels, number = images.shape[0], images.levels, len(images)
    if channels not in (1, 3):
        return [Baseline(name, None, f"no {name} for {channels} channels")]
    if levels > 256:
        return [Baseline(name, None, f"no {name} for {levels} levels")]
    chosen = images.spread(MOST_FILES)
    pictures = images.__getitems__(chosen)[0].numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    which = f"{len(chosen)} of {number} images, evenly spaced" if len(chosen) < number else f"all {number} images"
    return [
        _smallest(f"{name}, a file per image", encoders, list(pictures), pictures.size, which),
        _smallest(f"{name}, one sheet", encoders, _sheets(pictures), pictures.size, which),
    ]


def _smallest(name: str, encoders: dict[str, Encoder], files: list[np.ndarray], dims: int, which: str) -> Baseline:
    """The encoder with the smallest total over all files, in bits per each of `dims` numbers."""
    files = [file[..., 0] if file.shape[-1] == 1 else file for file in files]
    totals = {stored: sum(len(encode(file)) for file in files) for stored, encode in encoders.items()}
    stored = min(totals, key=totals.__getitem__)
    return Baseline(name, totals[stored] * 8 / dims, f"{which}; {len(files)} {'file' if len(files) == 1 else 'files'}; {stored}")


def _storages(levels: int, encode: Encoder) -> dict[str, Encoder]:
    """Symbols as they are, or stretched: filters and predictors like one or the other, depending on the images."""
    if levels >= 256:
        return {"bit depth 8": encode}
    stretch = brightness(levels)
    return {"symbols as they are": encode, "symbols stretched over 0..255": lambda picture: encode(stretch[picture])}


def _packed_png(picture: np.ndarray, levels: int) -> bytes:
    """Grey symbols (H, W) as bits: Pillow packs palette pictures, and one of two levels needs no palette."""
    height, width = picture.shape
    if levels == 2:
        return _file(Image.fromarray(picture.astype(bool)), format="PNG", optimize=True)
    packed = Image.frombytes("P", (width, height), picture.tobytes())
    packed.putpalette(bytes(symbol for symbol in range(levels) for _ in "RGB"))
    return _file(packed, format="PNG", optimize=True, bits=2 if levels <= 4 else 4)


def _file(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _sheets(pictures: np.ndarray) -> list[np.ndarray]:
    """Pictures (N, H, W, C) side by side on about square sheets (H', W', C), as few as SHEET_SIDE allows."""
    number, height, width, channels = pictures.shape
    most_columns, most_rows = max(1, SHEET_SIDE // width), max(1, SHEET_SIDE // height)
    columns = min(most_columns, math.ceil(math.sqrt(number * height / width)))
    per_sheet = columns * min(most_rows, math.ceil(number / columns))
    sheets = []
    for start in range(0, number, per_sheet):
        part = pictures[start : start + per_sheet]
        rows = math.ceil(len(part) / columns)
        cells = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
        cells[: len(part)] = part
        cells = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
        sheets.append(cells.reshape(rows * height, columns * width, channels))
    return sheets


def _batches(images: Images) -> Iterator[np.ndarray]:
    for start in range(0, len(images), BATCH):
        yield images.__getitems__(list(range(start, min(start + BATCH, len(images)))))[0].numpy()


def _require_some(images: Images) -> None:
    if len(images) == 0:
        raise InputError("there are no images: the split is empty")


def print_scores(name: str, evaluation: Evaluation, baselines: list[Baseline], console: Console) -> None:
    """A likelihood in both units, and those of its baselines below."""
    table = Table("", "bits/dim", "nats per image", "", box=None, pad_edge=False)
    bits = f"{evaluation.bits_per_dim:.4f} ± {evaluation.bits_per_dim_standard_error:.4f}"
    nats = f"{evaluation.nats_per_image:.3f} ± {evaluation.nats_standard_error:.3f}"
    table.add_row(name, bits, nats, f"{len(evaluation.nats)} images", style="bold")
    for baseline in baselines:
        value = baseline.bits_per_dim
        figures = ("n/a", "n/a") if value is None else (f"{value:.4f}", f"{value * evaluation.nats_per_bit_per_dim:.3f}")
        table.add_row(baseline.name, *figures, baseline.note)
    console.print(table)
