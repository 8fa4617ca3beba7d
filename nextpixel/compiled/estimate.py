"""What a scan by programs will take, found before anything of its size is made.

Programs are as long for a wide image as for a narrow one, and the memory that they work on grows evenly with the batch and with
the width. So it is known from a few scans of small images, which are recorded and not run.
"""

import math
from itertools import count, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextpixel.compiled.steps import Stepped
from nextpixel.layers.pointwise import without_autocast

if TYPE_CHECKING:
    from nextpixel.models.base import AutoregressiveModel

# Of the small images: rows of every kind, and columns at the edges and between them.
SIDE = 2**6


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            {t.untyped_storage().data_ptr(): t for t in tree_leaves(x) if isinstance(t, Tensor)} for x in (args, result)
        )
        self.bytes += sum(tensor.untyped_storage().nbytes() for place, tensor in made.items() if place not in given)
        return result


@torch.inference_mode()
def scan_bytes(model: "AutoregressiveModel", batch: int, size: tuple[int, int], places: bool = False) -> int:
    r"""Bytes that `Stepped` takes at most for a scan of so many images of this size, besides the images, h and the chooser.

    Args:
        model: on the processor, in float32 or float64.
        batch, size: B images of (H, W).
        places: whether the encoded condition h has maps, (B, features, H, W), and not one vector for all places.

    Raises:
        NotRecordableError: the model's scan is no program.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1)
        >>> scan_bytes(model, 1, (8, 8)) < 2**22 < scan_bytes(model, 1, (8, 2**20))
        True
    """
    # Widths below that of a small image are not worth to be told apart; the height counts where there are maps of all rows.
    unit = _unit(model)
    side = max(SIDE, unit) * model.strides[0]
    height, width = (size[0] + unit * model.strides[0]) / side, -(-size[1] // side)
    corners = list(product((1, 2), (1, 2), (1, 2) if places or len(model.strides) > 1 else (1,)))
    found = {corner: _small(model, side, *corner, places) for corner in corners}
    total = 0
    for corner in corners:
        # The line through what is found at 1 and at 2, in each direction.
        weights = (n - 1 if at == 2 else 2 - n for at, n in zip(corner, (batch, width, height), strict=True))
        total += math.prod(weights if len(corners) == 8 else [*weights][:2]) * found[corner]
    return math.ceil(total)


def _unit(model: "AutoregressiveModel") -> int:
    """What the sides of a pass are rounded up to: the rows after which their kinds begin anew."""
    x = torch.zeros(1, model.shape[0], 1, 1, dtype=torch.long)
    h = None if model.condition is None else model.condition.one.new_zeros(1, model.condition.features, 1, 1)
    kinds = (part.row_kind for part, _ in model.parts(x, h))
    return max(next(i for i in count(1) if kind(i) == kind(0)) for kind in kinds)


def _small(model: "AutoregressiveModel", side: int, batch: int, width: int, height: int, places: bool) -> int:
    """Bytes of all passes over small images, so many sides wide and high."""
    size = (height * side, width * side)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.long).expand(batch, model.shape[0], *size)
    h = None
    if model.condition is not None:
        h = model.condition.one.new_zeros(1, 1, 1, 1).expand(batch, model.condition.features, *(size if places else (1, 1)))
    taken = 0
    with without_autocast(x):
        for stride, (part, part_h) in zip(model.strides, Stepped(model).parts(x, h), strict=True):
            with _Allocated() as allocated:
                part.start(batch, part_h, (size[0] // stride, size[1] // stride))
            taken += allocated.bytes
    return taken
