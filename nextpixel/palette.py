"""What a symbol looks like in a picture: a brightness, or, where symbols are codes without order, a colour of its own."""

import colorsys

import numpy as np

# Multiples of these three fill a cube evenly, as many as one may take (Roberts 2018: the sequence R3).
EVEN = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])


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
