"""Images of symbols as picture files: grids and completions to look at.

What a symbol looks like in a picture: a brightness, or, where symbols are codes without order, a colour of its own.
"""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from nextpixel.errors import InputError
from nextpixel.files import write_aside

SEPARATOR = (128, 128, 128)
HIDDEN = (74, 105, 160)  # blue: no grey image holds it
KNOWN = (255, 170, 40)  # orange, mixed into the known places
KNOWN_SHARE = 0.35
LINE = 2  # width of a separator, pixels of the file
CAPTION = 13  # height of a line of text, pixels of the file
VISIBLE = 64  # wanted size of one image's larger side, pixels of the file
WIDEST = 2000  # wanted limit on the width of a picture, pixels of the file

Array = torch.Tensor | np.ndarray


# Multiples of these three fill a cube evenly, as many as one may take (Roberts 2018: the sequence R3).
EVEN = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])


def save_grid(
    x: Array,
    levels: int,
    path: str | Path,
    columns: int | None = None,
    scale: int | None = None,
    known: Array | None = None,
    codes: bool = False,
    captions: Sequence[str] | None = None,
) -> None:
    """Write images as one PNG: a grid filled row by row, each image enlarged by an integer factor.

    Symbol s has brightness round(255 s / (levels - 1)). One channel is grey, three are red, green and blue; the channels
    of any other image stand side by side in grey. Codes have no order and so no brightness: each has a colour of its own,
    and their channels always stand side by side.

    Args:
        x: images (N, C, H, W), integers 0 .. levels-1.
        levels: number of symbols.
        path: the PNG file.
        columns: images per row; by default the grid is about square.
        scale: enlargement; by default an image's larger side gets at least 64 pixels, unless the picture's width would
            pass 2000 pixels.
        known: places to mark in orange, a mask broadcastable to `x`. A place of an RGB image is known if its three channels are.
        codes: whether the symbols are codes without order.
        captions: a short text below each image, such as the name of its class.

    Raises:
        InputError: `x` is empty, not four-dimensional, not of integers or out of range; `known` does not fit `x`;
            `columns` or `scale` is below 1; or there is not one caption for each image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "grid.png"
        >>> save_grid(torch.randint(2, (16, 1, 28, 28)), levels=2, path=path)
        >>> Image.open(path).size
        (346, 346)
    """
    tiles = _tiles(_symbols(x, levels, dimensions=4), levels, codes)
    if known is not None:
        places = _known_places(known, tuple(x.shape), codes)
        tiles = np.where(places, np.rint((1 - KNOWN_SHARE) * tiles + KNOWN_SHARE * np.array(KNOWN)), tiles).astype(np.uint8)
    if columns is None:
        # About square: columns * width = rows * height, with rows = number / columns.
        columns = max(1, round(math.sqrt(len(tiles) * tiles.shape[1] / tiles.shape[2])))
    if captions is not None and len(captions) != len(tiles):
        raise InputError(f"{len(captions)} captions for {len(tiles)} images: expected one for each")
    _save(tiles, min(columns, len(tiles)), scale, path, captions)


def save_completions(
    original: Array,
    known: Array,
    completions: Array,
    levels: int,
    path: str | Path,
    scale: int | None = None,
    codes: bool = False,
) -> None:
    """Write completions as one PNG, a row per image: the original, the known part, K completions.

    The rest of the known part is in flat blue, or for codes, whose colours may be blue, in grey.

    Args:
        original: images (N, C, H, W), integers 0 .. levels-1.
        known: mask of the places that were given, broadcastable to `original`.
        completions: images (N, K, C, H, W), integers 0 .. levels-1.
        levels: number of symbols.
        path: the PNG file.
        scale: enlargement; chosen as in `save_grid` by default.
        codes: whether the symbols are codes without order, drawn as in `save_grid`.

    Raises:
        InputError: as in `save_grid`, or `original` and `completions` do not fit together.
    """
    given = _symbols(original, levels, dimensions=4)
    filled = _symbols(completions, levels, dimensions=5)
    if (len(filled), *filled.shape[2:]) != given.shape:
        raise InputError(f"completions {filled.shape} do not belong to originals {given.shape}: expected (N, K, C, H, W)")
    first = _tiles(given, levels, codes)
    hidden = np.array(SEPARATOR if codes else HIDDEN, dtype=np.uint8)
    masked = np.where(_known_places(known, given.shape, codes), first, hidden)
    last = _tiles(filled.reshape(-1, *given.shape[1:]), levels, codes).reshape(*filled.shape[:2], *first.shape[1:])
    rows = np.concatenate([first[:, None], masked[:, None], last], axis=1)
    _save(rows.reshape(-1, *first.shape[1:]), rows.shape[1], scale, path)


def save_maps(completions: Array, levels: int, mean: str | Path, uncertainty: str | Path) -> None:
    r"""Write the mean and the standard deviation of each symbol over K completions as two PNGs, an image beside the other.

    .. math:: \text{brightness} = 255 \frac{\text{mean}}{\text{levels} - 1}
        \qquad \text{and} \qquad 255 \frac{2 s}{\text{levels} - 1}

    so that white is the largest standard deviation s that symbols can have, and black is certain.

    Args:
        completions: images (N, K, C, H, W), integers 0 .. levels-1.
        levels: number of symbols.
        mean, uncertainty: the PNG files.

    Raises:
        InputError: as in `save_grid`.
    """
    values = 255 * _symbols(completions, levels, dimensions=5) / (levels - 1)
    save_grid(np.rint(values.mean(1)).astype(int), 256, mean)
    save_grid(np.rint(2 * values.std(1)).clip(0, 255).astype(int), 256, uncertainty)


def _symbols(x: Array, levels: int, dimensions: int) -> np.ndarray:
    """Check images and return them as int64."""
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if array.ndim != dimensions or array.size == 0:
        raise InputError(f"images of shape {array.shape} cannot be drawn: expected {dimensions} dimensions, none of them empty")
    if array.dtype.kind not in "iu":
        raise InputError(f"images are integers 0..{levels - 1}, not {array.dtype}")
    if levels < 2 or array.min() < 0 or array.max() >= levels:
        raise InputError(f"images hold {array.min()}..{array.max()}, but {levels} levels mean 0..{levels - 1}")
    return array.astype(np.int64)


def _tiles(x: np.ndarray, levels: int, codes: bool) -> np.ndarray:
    """Images (N, C, H, W) of symbols -> uint8 RGB (N, H, W or C * W, 3)."""
    if codes:
        return code_colours(levels)[_side_by_side(x)]
    return _layout(brightness(levels)[x])


def _known_places(known: Array, shape: tuple[int, ...], codes: bool) -> np.ndarray:
    """Mask broadcastable to (N, C, H, W) -> bool (N, H, W or C * W, 1), in the layout of `_tiles`."""
    array = known.detach().cpu().numpy() if isinstance(known, torch.Tensor) else np.asarray(known)
    try:
        full = np.broadcast_to(array.astype(bool), shape)
    except ValueError as error:
        raise InputError(f"a mask of shape {array.shape} does not fit images of shape {shape}") from error
    return _side_by_side(full)[..., None] if codes else _layout(full).all(axis=-1, keepdims=True)


def _layout(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.shape[1] == 3 else np.repeat(_side_by_side(x)[..., None], 3, axis=-1)


def _side_by_side(x: np.ndarray) -> np.ndarray:
    number, channels, height, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(number, height, channels * width)


def _save(tiles: np.ndarray, columns: int, scale: int | None, path: str | Path, captions: Sequence[str] | None = None) -> None:
    """Write tiles (N, h, w, 3) as a grid with a line between and around them, each above its caption."""
    number, height, width, _ = tiles.shape
    if columns < 1 or (scale is not None and scale < 1):
        raise InputError(f"columns and scale are at least 1, not {columns} and {scale}")
    if scale is None:
        room = (WIDEST - LINE) // columns - LINE
        scale = max(1, min(math.ceil(VISIBLE / max(height, width)), room // width))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    if captions is not None:
        drawn = {text: _caption(text, tiles.shape[2]) for text in set(captions)}
        tiles = np.concatenate([tiles, np.stack([drawn[text] for text in captions])], axis=1)
    height, width, rows = tiles.shape[1] + LINE, tiles.shape[2] + LINE, math.ceil(number / columns)
    canvas = np.empty((rows * height + LINE, columns * width + LINE, 3), dtype=np.uint8)
    canvas[:] = SEPARATOR
    for n, tile in enumerate(tiles):
        top, left = n // columns * height + LINE, n % columns * width + LINE
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    with write_aside(path) as aside:
        Image.fromarray(canvas).save(aside, format="PNG")


def _caption(text: str, width: int) -> np.ndarray:
    """A line of text on white, uint8 (CAPTION, width, 3); what is wider ends in two dots."""
    strip = Image.new("RGB", (width, CAPTION), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default()
    # Pillow's own font without FreeType has no other letters.
    whole = text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")
    cut = whole
    while cut and draw.textlength(cut if cut == whole else f"{cut}..", font=font) > width:
        cut = cut[:-1]
    shown = cut if cut == whole else f"{cut}.."
    draw.text((max(0, (width - draw.textlength(shown, font=font)) // 2), 0), shown, fill="black", font=font)
    return np.asarray(strip)


def brightness(levels: int) -> np.ndarray:
    """The brightness of each symbol s, round(255 s / (levels - 1)), uint8 (levels,): how all our pictures show symbols.

    Example:
        >>> brightness(4)
        array([  0,  85, 170, 255], dtype=uint8)
    """
    return np.rint(np.arange(levels) * 255 / (levels - 1)).astype(np.uint8)


def code_colours(levels: int) -> np.ndarray:
    """A colour for each code, uint8 (levels, 3), far from those of the others and never grey; near codes are not alike.

    Hue, saturation and value of code s are the fractional parts of (s + 1) times `EVEN`.

    Example:
        >>> code_colours(3).tolist()
        [[179, 38, 192], [51, 64, 129], [122, 206, 184]]
    """
    cube = np.arange(1, levels + 1)[:, None] * EVEN % 1 * (1, 0.6, 0.55) + (0, 0.4, 0.45)
    return np.rint(255 * np.array([colorsys.hsv_to_rgb(*colour) for colour in cube])).astype(np.uint8)
