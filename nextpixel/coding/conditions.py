"""What images depend on, from the user's `cond` to the maps of the tiles of a group."""

from typing import Any

import torch
from torch import Tensor

from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.tiles import Part
from nextpixel.conditions import Combination, Condition, Labels, SpatialMap, Vector

CHECKED_AT_ONCE = 4096  # labels
# Dimensions of a `cond` that has an entry for each image.
_OF_ALL: dict[type[Condition], tuple[int, ...]] = {Labels: (1,), Vector: (2,), SpatialMap: (2, 4)}


def labels_of(coder: LaneCoder, cond: Any, images: int) -> list[int] | None:
    """The class of each image, which an archive stores, if the model is class-conditional.

    Raises:
        InputError: as `model.encode_condition`.
    """
    if not isinstance(coder.model.condition, Labels):
        return None
    Conditions(coder, cond, [(1, 1)] * images)  # refuses what is no label
    return torch.as_tensor(cond).expand(images).tolist()


class Conditions:
    """The encoded condition of any tiles of some images, image by image: h of all of them at once may be large.

    Args:
        coder: whose model has the condition.
        cond: for one image or for all, as `model.log_prob` takes it.
        sizes: (H, W) of each image.

    Raises:
        InputError: as `model.encode_condition`: `cond` is missing, superfluous, or does not fit images of these sizes.
    """

    def __init__(self, coder: LaneCoder, cond: Any, sizes: list[tuple[int, int]]) -> None:
        self.coder, self.sizes, self.cond = coder, sizes, _as_tensors(coder.model.condition, cond)
        self.unconditional = coder.model.condition is None
        self._newest: tuple[int, Tensor] | None = None  # an image and its h: its tiles follow one another
        if self.unconditional:
            coder.condition(cond, len(sizes), *sizes[0])  # refuses one that is given
            return
        if _length(coder.model.condition, self.cond) not in (None, len(sizes)):
            coder.condition(cond, len(sizes), *sizes[0])  # refuses it, before anything is encoded
        for start in range(0, len(sizes), CHECKED_AT_ONCE) if isinstance(coder.model.condition, Labels) else ():
            images = slice(start, min(start + CHECKED_AT_ONCE, len(sizes)))
            coder.condition(self._of_images(images), images.stop - images.start, 1, 1)
        first = {size: image for image, size in reversed(list(enumerate(sizes)))}
        for image in first.values():
            if self._of_image(image).shape[2:] == (1, 1):
                break  # what has no places is the same for images of all sizes, of which there may be as many as images

    def of(self, group: list[Part]) -> Tensor | None:
        """h for the tiles of a group, (B, F, h, w), or None for an unconditional model."""
        if self.unconditional:
            return None
        return torch.cat([self._of_part(part) for part in group])

    def _of_part(self, part: Part) -> Tensor:
        h = self._of_image(part.image)
        # What has no places is one number for all of them.
        sides = zip((part.rows, part.columns), h.shape[2:], strict=True)
        rows, columns = (slice(*side) if places > 1 else slice(None) for side, places in sides)
        return h[:, :, rows, columns].clone()  # of h, which may be larger, nothing is kept

    def _of_image(self, image: int) -> Tensor:
        if self._newest is None or self._newest[0] != image:
            self._newest = None
            h = self.coder.condition(self._of_images(slice(image, image + 1)), 1, *self.sizes[image])
            self._newest = image, h
        return self._newest[1]

    def _of_images(self, images: slice) -> Any:
        return _select(self.coder.model.condition, self.cond, images)


def _as_tensors(condition: Condition | None, cond: Any) -> Any:
    """Arrays as tensors, once; what is none stays as it is, and the condition refuses it."""
    if isinstance(condition, Combination):
        if not isinstance(cond, list | tuple) or len(cond) != len(condition.parts):
            return cond
        return tuple(_as_tensors(part, of_part) for part, of_part in zip(condition.parts, cond, strict=True))
    try:
        return cond if cond is None else torch.as_tensor(cond)
    except (TypeError, ValueError, RuntimeError):
        return cond


def _for_all(condition: Condition, cond: Any) -> bool:
    """Whether `cond` has an entry for each image; else it is one for all."""
    dimensions = next((found for kind, found in _OF_ALL.items() if isinstance(condition, kind)), ())
    return isinstance(cond, Tensor) and cond.dim() in dimensions


def _length(condition: Condition, cond: Any) -> int | None:
    """For how many images `cond` is; None where it is for any number of them."""
    if isinstance(condition, Combination) and isinstance(cond, tuple) and len(cond) == len(condition.parts):
        lengths = {_length(part, of_part) for part, of_part in zip(condition.parts, cond, strict=True)} - {None}
        return next(iter(lengths), None) if len(lengths) < 2 else -1
    return len(cond) if _for_all(condition, cond) else None


def _select(condition: Condition, cond: Any, images: slice) -> Any:
    """The `cond` of some of the images."""
    if isinstance(condition, Combination) and isinstance(cond, tuple) and len(cond) == len(condition.parts):
        return tuple(_select(part, of_part, images) for part, of_part in zip(condition.parts, cond, strict=True))
    return cond[images] if _for_all(condition, cond) else cond
