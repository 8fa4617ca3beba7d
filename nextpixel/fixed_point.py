"""Fixed-point sampling: all places drawn at once, again and again, until nothing changes.

    x <- choose(network(x), noise)        for all places side by side, a sweep
    until x is what it was                then every place is the one that a scan would have drawn

With the noise of each place fixed, an image is a function of itself in which a place depends on earlier places only. After k
sweeps the first k turns of the scan are right for good, so at most as many sweeps are needed as there are turns, and often far
fewer: a place is right as soon as what it really depends on is. (Song et al. 2021, arXiv:2002.03629: Jacobi iteration.)

Blocks of rows may be swept one after the other: a sweep is then a forward pass over the rows down to the block's end, and what
is below has no sweeps before its turn.

A scan does the arithmetic of one forward pass in many small calls, this does that of `sweeps` passes in a few large ones. So it
wins where calls cost more than arithmetic: on a GPU, for few images, for images whose places hardly depend on one another.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.raster import Choose, Progress


def as_places(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as B * H * W images of one place, in the order of their parameters; a copy.

    Example:
        >>> as_places(torch.arange(12).view(1, 2, 2, 3))[:, :, 0, 0].tolist()
        [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    """
    return x.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None].clone()


@torch.inference_mode()
def fixed_point(
    model: Any,
    x: Tensor,
    choose_rows: Callable[[slice], Choose],
    h: Tensor | None = None,
    progress: Progress | None = None,
    block: int | None = None,
) -> int:
    """Fill x (B, C, H, W) int64 with the image that `raster` would give, and return the number of sweeps.

    Args:
        model: an `AutoregressiveModel`.
        x: changed in place. What stands there is the first guess, and wherever it starts it ends at the same image.
        choose_rows: gives for some rows what `raster` calls, for images of one place: its noise, and the places that it keeps,
            are `as_places` of those rows.
        h: the encoded condition.
        progress: called after each sweep with the number of rows in which all places are right for good.
        block: rows that are swept together, by default all.

    Raises:
        InputError: the model's rows can not be cut in such blocks.
        RuntimeError: no end after as many sweeps as there are turns, which causality rules out but for rounding: some convolution
            lets later places change the last digits of earlier ones.

    Example:
        >>> import nextpixel
        >>> from nextpixel.raster import Draw
        >>> model = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1).eval()
        >>> x, noise = torch.zeros(2, 1, 4, 4, dtype=torch.long), torch.rand(2, 1, 4, 4, dtype=torch.float64)
        >>> fixed_point(model, x, lambda rows: Draw(model.likelihood, as_places(noise[:, :, rows]))) <= 17
        True
    """
    height, width = x.shape[2:]
    turns, sweeps = model.order(height, width).to(x.device), 0
    if block is not None:
        check_block(model, block)
    for begin in range(0, height, block or height):
        rows = slice(begin, min(begin + (block or height), height))
        choose = choose_rows(rows)
        of_rows = turns[:, rows] - turns[:, rows].min()
        for _ in range(of_rows.numel() + 1):
            changed = _sweep(model, x, rows, choose, h)
            sweeps += 1
            if progress is not None:
                progress(begin + _rows(changed, of_rows))
            if not changed.any():
                break
        else:
            size = f"{rows.stop - begin}x{width}"
            raise RuntimeError(f"no fixed point after {of_rows.numel() + 1} sweeps of {size} places: rounding is not causal")
    return sweeps


def check_block(model: Any, block: int) -> None:
    """Whether rows can be swept in blocks of so many.

    Raises:
        InputError: a model of several passes, whose rows depend on rows below; or blocks that cut through a coarse row, which
            then would not be that of the whole image.

    Example:
        >>> import nextpixel
        >>> check_block(nextpixel.PixelCNNpp(shape=(1, 8, 8), levels=4, features=4, blocks=1), 6)
        Traceback (most recent call last):
        nextpixel.errors.InputError: rows of this pixelcnn++ are swept in blocks of a multiple of 4, not of 6
    """
    if model.strides != (1,):
        raise InputError(f"a {model.name} of {len(model.strides)} passes is swept as a whole, not in blocks of {block} rows")
    unit = next(i for i in itertools.count(1) if model.row_kind(i) == model.row_kind(0))
    if block < 1 or block % unit:
        raise InputError(f"rows of this {model.name} are swept in blocks of a multiple of {unit}, not of {block}")


def _sweep(model: Any, x: Tensor, rows: slice, choose: Choose, h: Tensor | None) -> Tensor:
    """Draw all places of some rows anew; says which have changed in any image, (C, rows, W)."""
    seen = slice(0, rows.stop)
    if h is not None and h.shape[2] > 1:
        h = h[:, :, seen]
    params = model.network(model.encode(x[:, :, seen]), h)[:, :, rows].permute(0, 2, 3, 1)
    places, old = as_places(x[:, :, rows]), x[:, :, rows]
    for c in range(x.shape[1]):
        places[:, c, 0, 0] = choose(params.flatten(0, 2), places, 0, 0, c)
    new = places.view(*params.shape[:3], -1).permute(0, 3, 1, 2)
    changed = (new != old).any(0)
    old.copy_(new)
    return changed


def _rows(changed: Tensor, turns: Tensor) -> int:
    """In how many rows every place is right for good: all places before the first that a sweep has changed are."""
    first = torch.where(changed, turns, turns.numel()).min()
    return int((turns <= first).all(2).all(0).sum())
