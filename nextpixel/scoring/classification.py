r"""Bayes' rule with a class-conditional model: which class explains an image best.

.. math:: p(y \mid x) = \frac{p(x \mid y) \, p(y)}{\sum_k p(x \mid k) \, p(k)}
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.models.base import AutoregressiveModel
from nextpixel.models.names import classes_of
from nextpixel.progress import track
from nextpixel.scan.evaluating import eval_mode

BATCH = 256  # images times classes of a forward pass
BINS = 10  # of a reliability plot


@dataclass(frozen=True, eq=False)
class Classification:
    """What N images were taken for.

    Attributes:
        posterior: p(y | x), float64 (N, K).
        labels: the true classes, (N,), or None.
        seconds: it took.

    Example:
        >>> found = Classification(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), 1.0)
        >>> found.accuracy, found.confusion.tolist(), round(found.calibration_error, 2)
        (0.5, [[1, 1], [0, 0]], 0.35)
    """

    posterior: np.ndarray
    labels: np.ndarray | None
    seconds: float

    @property
    def found(self) -> np.ndarray:
        """The likeliest class of each image."""
        return self.posterior.argmax(1)

    @property
    def accuracy(self) -> float:
        """The share of images whose likeliest class is theirs."""
        return float((self.found == self.labels).mean())

    @property
    def accuracy_standard_error(self) -> float:
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.posterior))

    @property
    def confusion(self) -> np.ndarray:
        """How many images of each class (rows) were taken for which (columns)."""
        matrix = np.zeros((self.posterior.shape[1],) * 2, dtype=int)
        np.add.at(matrix, (self.labels, self.found), 1)
        return matrix

    def reliability(self) -> list[tuple[float, float, int]]:
        """Mean probability of the likeliest class, share that is right, and number of images, in ten bins of that probability."""
        sure = self.posterior.max(1)
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        right = self.found == self.labels
        return [
            (float(sure[bins == k].mean()), float(right[bins == k].mean()), int((bins == k).sum()))
            for k in range(BINS)
            if (bins == k).any()
        ]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of probability and share over the bins, weighted by their images."""
        return sum(abs(sure - right) * number for sure, right, number in self.reliability()) / len(self.posterior)


def log_joint(model: AutoregressiveModel, x: Tensor, log_prior: Tensor) -> Tensor:
    """log p(x | y) + log p(y) of images (B, C, H, W) for every class, (B, K): all classes of an image in one batch."""
    classes = len(log_prior)
    labels = torch.arange(classes, device=x.device).repeat(len(x))
    each = model.log_prob(x.repeat_interleave(classes, 0), labels).double()
    return each.view(len(x), classes) + log_prior


def prior_of(counts: Any, classes: int) -> Tensor:
    """log p(y) from how often each class comes; None gives each the same.

    Raises:
        InputError: not one number above 0 for each class.
    """
    if counts is None:
        return torch.full((classes,), -math.log(classes), dtype=torch.float64)
    weights = torch.as_tensor(np.asarray(counts, dtype=float))
    if weights.shape != (classes,) or not bool((weights > 0).all()) or not bool(weights.isfinite().all()):
        raise InputError(f"the prior must be {classes} numbers above 0, one for each class, not {weights.tolist()[:12]}")
    return (weights / weights.sum()).log().double()


def classify(
    model: AutoregressiveModel, images: Images, prior: Any = None, most: int | None = None, progress: bool = True
) -> Classification:
    """Which class each image is of, by Bayes' rule.

    Args:
        model: class-conditional.
        images: a split; its labels, if any, are what accuracy is measured by.
        prior: weights of the classes; by default all are alike.
        most: how many images at most, spread over the split.
        progress: whether to show a bar.

    Raises:
        InputError: the model has no classes, images that do not fit, or a prior of another number of classes.
    """
    classes = classes_of(model)
    if classes is None or model.condition.source != "label":
        raise InputError("classify needs a class-conditional model (--model.condition labels)")
    if (images.shape[0], images.levels) != (model.shape[0], model.levels):
        mine = f"{model.shape[0]} channels and {model.levels} levels"
        raise InputError(f"the model is for {mine}, the data have {images.shape[0]} and {images.levels}")
    chosen = images.spread(len(images) if most is None else most)
    if not chosen:
        raise InputError("there are no images to classify: the split is empty")
    log_prior, size = prior_of(prior, classes).to(model.device), max(1, BATCH // classes)
    parts, labels = [], []
    begin = time.perf_counter()
    starts = range(0, len(chosen), size)
    with eval_mode(model), torch.inference_mode(), torch.autocast(model.device.type, enabled=False):
        for start in track(starts, len(starts), "classifying", progress):
            x, own = images.__getitems__(chosen[start : start + size])
            parts.append(log_joint(model, x.to(model.device), log_prior).softmax(1).cpu().numpy())
            labels.append(own)
    seconds = time.perf_counter() - begin
    known = None if labels[0] is None else torch.cat(labels).numpy()
    return Classification(np.concatenate(parts), known, seconds)
