"""What images depend on, from the user's `cond` to the maps of the tiles of a group."""

from typing import Any

import torch
from torch import Tensor

from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.plan import Part
from nextpixel.condition import Labels


def labels_of(coder: LaneCoder, cond: Any, images: int) -> list[int] | None:
    """The class of each image, which an archive stores, if the model is class-conditional.

    Raises:
        InputError: as `model.encode_condition`.
    """
    if not isinstance(coder.model.condition, Labels):
        return None
    coder.condition(cond, images, 1, 1)  # refuses what is no label
    return torch.as_tensor(cond).expand(images).tolist()


class Conditions:
    """The encoded condition of any tiles of some images.

    Args:
        coder: whose model has the condition.
        cond: for one image or for all, as `model.log_prob` takes it.
        sizes: (H, W) of each image.

    Raises:
        InputError: as `model.encode_condition`: `cond` is missing, superfluous, or does not fit images of these sizes.
    """

    def __init__(self, coder: LaneCoder, cond: Any, sizes: list[tuple[int, int]]) -> None:
        # A map has the size of its image, so each size has an h of its own, of which only the images of that size are read. What
        # has no places is the same for all sizes, of which there may be as many as images.
        h = coder.condition(cond, len(sizes), *max(sizes))
        if h is None or h.shape[2:] == (1, 1):
            self.h = dict.fromkeys(sizes, h)
        else:
            self.h = {size: coder.condition(cond, len(sizes), *size) for size in dict.fromkeys(sizes)}
        self.sizes, self.unconditional = sizes, coder.model.condition is None

    def of(self, group: list[Part]) -> Tensor | None:
        """h for the tiles of a group, (B, F, h, w), or None for an unconditional model."""
        if self.unconditional:
            return None
        return torch.cat([self._of_part(part) for part in group])

    def _of_part(self, part: Part) -> Tensor:
        h = self.h[self.sizes[part.image]][part.image : part.image + 1]
        # What has no places is one number for all of them.
        sides = zip((part.rows, part.columns), h.shape[2:], strict=True)
        rows, columns = (slice(*side) if places > 1 else slice(None) for side, places in sides)
        return h[:, :, rows, columns]
