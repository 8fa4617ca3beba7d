"""What is known of an image in training: masks of ten kinds, drawn anew for every image, for models whose condition is `Known`.

A mask follows from a seed alone, so that validation can use the same masks every time, and a resumed run its own.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from nextpixel.errors import InputError

Mask: TypeAlias = np.ndarray  # bool, True where a symbol is known
NOTHING_SHARE = 0.2  # of the images, where "nothing" is one of several kinds: the unconditional distribution is asked for most


def _nothing(rng: Generator, channels: int, height: int, width: int) -> Mask:
    return np.zeros((height, width), dtype=bool)


def _half(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """One side of a straight cut along rows or columns."""
    known = np.zeros((height, width), dtype=bool)
    side, rows = rng.integers(2), height > 1 and (width == 1 or rng.integers(2) == 0)
    turned = known if rows else known.T
    cut = int(rng.integers(1, max(2, len(turned))))
    turned[slice(cut) if side else slice(cut, None)] = True
    return known


def _rectangle(rng: Generator, height: int, width: int) -> Mask:
    """A rectangle of 1/8 to 3/4 of each side, anywhere."""
    inside = np.zeros((height, width), dtype=bool)
    sides = [max(1, round(side * rng.uniform(1 / 8, 3 / 4))) for side in (height, width)]
    top, left = (int(rng.integers(0, whole - side + 1)) for whole, side in zip((height, width), sides, strict=True))
    inside[top : top + sides[0], left : left + sides[1]] = True
    return inside


def _hole(rng: Generator, channels: int, height: int, width: int) -> Mask:
    return ~_rectangle(rng, height, width)


def _window(rng: Generator, channels: int, height: int, width: int) -> Mask:
    return _rectangle(rng, height, width)


def _strokes(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """All but what one to four strokes of a brush cover, each of a few straight pieces."""
    known = np.ones((height, width), dtype=bool)
    rows, columns = np.mgrid[:height, :width]
    size = min(height, width)
    for _ in range(rng.integers(1, 5)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        angle, radius = rng.uniform(0, 2 * np.pi), max(0.6, size * rng.uniform(0.02, 0.1))
        for _ in range(rng.integers(1, 5)):
            angle += rng.normal(0, 0.8)
            length = size * rng.uniform(0.1, 0.4)
            dy, dx = length * np.sin(angle), length * np.cos(angle)
            # The distance of every place to this piece.
            t = np.clip(((rows - y) * dy + (columns - x) * dx) / (length**2 + 1e-9), 0, 1)
            known &= (rows - y - t * dy) ** 2 + (columns - x - t * dx) ** 2 > radius**2
            y, x = y + dy, x + dx
    return known


def _points(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """Independent places, at every rate: half of the masks know less than a quarter."""
    return rng.random((height, width)) < rng.random() ** 2


def _symbols(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """Independent symbols, at every rate: of one place one channel may be known and another not."""
    return rng.random((channels, height, width)) < rng.random() ** 2


def _grid(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """Every s-th place in both directions: what a smaller image gives."""
    known = np.zeros((height, width), dtype=bool)
    stride = int(rng.integers(2, 5))
    known[rng.integers(stride) :: stride, rng.integers(stride) :: stride] = True
    return known


def _lines(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """All but some rows, or some columns, at every rate: dead lines of a detector."""
    rows = rng.integers(2) == 0
    known = rng.random(height if rows else width) < rng.random()
    return np.broadcast_to(known[:, None] if rows else known, (height, width)).copy()


def _channels(rng: Generator, channels: int, height: int, width: int) -> Mask:
    """Some channels whole, and nothing of the others."""
    known = rng.permutation(channels) < rng.integers(1, max(2, channels))
    return np.broadcast_to(known[:, None, None], (channels, height, width)).copy()


KINDS: dict[str, Callable[[Generator, int, int, int], Mask]] = {
    "nothing": _nothing,
    "half": _half,
    "hole": _hole,
    "window": _window,
    "strokes": _strokes,
    "points": _points,
    "symbols": _symbols,
    "grid": _grid,
    "lines": _lines,
    "channels": _channels,
}
OF_CHANNELS = ("symbols", "channels")  # which tell nothing new of images with one


def draw_mask(kind: str, shape: tuple[int, int, int], seed: int | Sequence[int]) -> Mask:
    """One mask of a kind: bool (C, H, W), True where a symbol is known. At least one symbol is unknown.

    Example:
        >>> draw_mask("grid", (1, 4, 6), seed=3)[0].astype(int)
        array([[1, 0, 0, 0, 1, 0],
               [0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0]])
    """
    rng = np.random.default_rng(seed)
    known = np.broadcast_to(KINDS[kind](rng, *shape), shape)
    return np.zeros(shape, dtype=bool) if known.all() else known.copy()


class Masks:
    """A mixture of kinds: "nothing" for a fifth of the images, where it is one of several, and the others alike for the rest.

    Args:
        kinds: names in `KINDS`; by default all that images of `shape` can have.
        shape: of the images, (C, H, W).

    Raises:
        InputError: no kinds, an unknown one, or one of channels for images with a single one.

    Example:
        >>> masks = Masks(["nothing", "half"], (1, 8, 8))
        >>> known = masks.draw([1, 2, 3, 4])
        >>> known.shape, known.dtype, bool((known == masks.draw([1, 2, 3, 4])).all())
        (torch.Size([4, 1, 8, 8]), torch.bool, True)
    """

    def __init__(self, kinds: Sequence[str] | None, shape: tuple[int, int, int]) -> None:
        possible = [kind for kind in KINDS if shape[0] > 1 or kind not in OF_CHANNELS]
        self.kinds = possible if kinds is None else list(kinds)
        self.shape = shape
        expected = f"expected some of {', '.join(possible)}"
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"--data.masks has {kind[:40]!r}: {expected}")
            if kind not in possible:
                raise InputError(f"--data.masks has {kind!r}, but the images have one channel: {expected}")
        if not self.kinds:
            raise InputError(f"--data.masks is empty: {expected}")
        others = len([kind for kind in self.kinds if kind != "nothing"])
        of_nothing = NOTHING_SHARE * others / (1 - NOTHING_SHARE)  # beside a weight of 1 for each other kind
        weights = np.array([1.0 if kind != "nothing" else max(of_nothing, 1e-9) for kind in self.kinds])
        self._ends = np.cumsum(weights / weights.sum())

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """A mask for each seed: bool (B, C, H, W)."""
        drawn = []
        for seed in seeds:
            kind = int(np.searchsorted(self._ends, np.random.default_rng([int(seed), 1]).random(), side="right"))
            drawn.append(draw_mask(self.kinds[min(kind, len(self.kinds) - 1)], self.shape, [int(seed), 2]))
        return torch.from_numpy(np.stack(drawn))
