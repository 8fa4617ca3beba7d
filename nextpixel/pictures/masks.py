"""What is known of pictures, as masks: sides, points at random, all but a rectangle, every s-th place, mask pictures."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextpixel.errors import InputError, shown
from nextpixel.pictures.read import read_picture

SIDES = ("top", "bottom", "left", "right")
FORMS = "top:S, bottom:S, left:S, right:S or random:S with a share S from 0 to 1"


def load_mask(spec: str | Path, height: int, width: int, seed: int = 0) -> Tensor:
    """Return the known places for a completion, as a mask (1, H, W) that is True where the image is given.

    Args:
        spec: "top:S", "bottom:S", "left:S" or "right:S" with the share S of rows or columns that is known (0 .. 1, rounded
            half up), "random:S" for each place with the probability S, or a black and white picture file of that size (white =
            known).
        height: H.
        width: W.
        seed: of random places.

    Raises:
        InputError: the share is not in 0 .. 1; the file cannot be read, has another size, or is not black and white.

    Example:
        >>> load_mask("top:0.5", height=2, width=3).int()
        tensor([[[1, 1, 1],
                 [0, 0, 0]]], dtype=torch.int32)
    """
    match = re.fullmatch(rf"({'|'.join(SIDES)}|random):(.*)", str(spec))
    if match is None:
        return _mask_picture(spec, height, width)
    side, text = match.groups()
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(f"{shown(spec)}: the known share must be a number from 0 to 1, not {shown(text)}")
    if side == "random":
        return torch.from_numpy(np.random.default_rng(seed).random((1, height, width)) < share)
    size = height if side in ("top", "bottom") else width
    count = math.floor(share * size + 0.5)
    line = torch.arange(size) < count if side in ("top", "left") else torch.arange(size) >= size - count
    mask = line[:, None] if side in ("top", "bottom") else line[None, :]
    return mask.expand(1, height, width).clone()


def without_rectangle(spec: str, height: int, width: int) -> Tensor:
    """Everything is known but a rectangle: bool (1, H, W).

    Args:
        spec: its first row, its first column, its height and its width, as "8,8,16,16".
        height: H.
        width: W.

    Raises:
        InputError: another form, or no rectangle inside the image.

    Example:
        >>> without_rectangle("0,1,2,2", height=2, width=4).int()
        tensor([[[1, 0, 0, 1],
                 [1, 0, 0, 1]]], dtype=torch.int32)
    """
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6}){3}", spec):
        raise InputError(f"--missing {shown(spec)}: expected row,column,height,width, such as 8,8,16,16")
    top, left, rows, columns = map(int, spec.split(","))
    if not (rows and columns and top + rows <= height and left + columns <= width):
        raise InputError(f"--missing {spec}: no rectangle inside an image of height {height} and width {width}")
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, top : top + rows, left : left + columns] = False
    return mask


def enlarged(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) on every s-th row and column of larger ones, and the mask of these places.

    Returns:
        (B, C, s H, s W), with each symbol repeated, and bool (1, s H, s W).

    Raises:
        InputError: a factor below 2.

    Example:
        >>> enlarged(torch.tensor([[[[1, 2]]]]), 2)[0].tolist()
        [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]
    """
    if factor < 2:
        raise InputError(f"--upscale {factor}: expected at least 2")
    large = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    known = torch.zeros(1, *large.shape[2:], dtype=torch.bool)
    known[:, ::factor, ::factor] = True
    return large, known


def _mask_picture(path: str | Path, height: int, width: int) -> Tensor:
    if not Path(path).exists():
        raise InputError(f"{shown(path)} is neither a mask file nor one of {FORMS}")
    pixels = read_picture(path)
    if pixels.shape[1:] != (height, width):
        raise InputError(
            f"{shown(path)} is {pixels.shape[2]} x {pixels.shape[1]} pixels wide and high, but the image is {width} x {height}"
        )
    white, black = (pixels == 255).all(axis=0), (pixels == 0).all(axis=0)
    if not (white | black).all():
        raise InputError(f"{shown(path)} is no mask: it must be black and white only (white = known)")
    return torch.from_numpy(white)[None]
