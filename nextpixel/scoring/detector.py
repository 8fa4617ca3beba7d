"""An anomaly detector in the habits of scikit-learn, over an image model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from nextpixel.errors import InputError
from nextpixel.files import write_text
from nextpixel.models.base import AutoregressiveModel
from nextpixel.models.storage import load as load_model
from nextpixel.models.storage import read_json
from nextpixel.scoring.unusual import BATCH, Figures, Measure, load_figures, save_figures, score

SETTINGS, REFERENCE = "detector.json", "reference.npz"


def score_images(
    model: AutoregressiveModel,
    images: Any,
    method: str = "likelihood",
    background: AutoregressiveModel | None = None,
    reference: Any = None,
    labels: Any = None,
    batch_size: int = BATCH,
) -> np.ndarray:
    """How unusual images are, (N,): higher is more unusual. It is `nextpixel.score`.

    Args:
        model: any model.
        images: integers (N, C, H, W), (N, H, W), or flat (N, C H W).
        method: one of `nextpixel.scoring.unusual.METHODS`.
        background: a second model, for "ratio".
        reference: usual images, to which "typicality" and "combined" are relative.
        labels: the classes of the images, for a class-conditional model.
        batch_size: images of a forward pass.

    Raises:
        InputError: an unknown method, images that do not fit, or what the method needs is missing.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1)
        >>> nextpixel.score(model, np.zeros((3, 8, 8), dtype=int)).shape
        (3,)
    """
    measure = Measure(model, [method], background, batch_size)
    known = None if reference is None else _figures(measure, reference)
    return score(method, _figures(measure, images, labels), known)


def _figures(measure: Measure, images: Any, labels: Any = None) -> Figures:
    x = as_images(images, measure.model)
    classes = None if labels is None else torch.as_tensor(np.asarray(labels))
    parts = []
    for start in range(0, len(x), measure.batch_size):
        some = slice(start, start + measure.batch_size)
        parts.append(measure.batch(x[some], None if classes is None else classes[some]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def as_images(images: Any, model: AutoregressiveModel) -> torch.Tensor:
    """Images as (N, C, H, W) of a model: flat ones get its shape, and those without channels one.

    Raises:
        InputError: none, or no whole numbers of such a shape.
    """
    array = images.numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim == 2 and array.shape[1] == math.prod(model.shape):
        array = array.reshape(-1, *model.shape)
    if array.ndim == 3:
        array = array[:, None]
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(np.int64)  # a step of a Pipeline may have made them floating-point numbers
    if len(array) == 0:
        raise InputError("there are no images to score")
    return model.check_images(array)


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Tells unusual images, by the likelihood under a model and its corrections.

    As in scikit-learn, `score_samples` and `decision_function` are higher for *usual* images, and `predict` gives -1 for unusual
    ones; `nextpixel.score` is higher for unusual ones.

    Args:
        model: any model that needs no condition.
        method: one of `nextpixel.scoring.unusual.METHODS`.
        background: a second model, for "ratio".
        contamination: share of the images of `fit` that the threshold calls unusual.
        batch_size: images of a forward pass.

    Attributes:
        offset_: the threshold of `score_samples`.
        reference_: figures of the images of `fit`.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1)
        >>> usual = np.random.default_rng(0).integers(2, size=(50, 4, 4))
        >>> detector = AnomalyDetector(model, contamination=0.1).fit(usual)
        >>> int((detector.predict(usual) == -1).sum())
        5
    """

    def __init__(
        self,
        model: AutoregressiveModel,
        method: str = "likelihood",
        background: AutoregressiveModel | None = None,
        contamination: float = 0.1,
        batch_size: int = BATCH,
    ) -> None:
        self.model, self.method, self.background = model, method, background
        self.contamination, self.batch_size = contamination, batch_size

    def fit(self, X: Any, y: Any = None) -> "AnomalyDetector":
        """Measure usual images, which give the threshold, and what "typicality" and "combined" are relative to.

        Raises:
            InputError: fewer than two images, all alike, or a contamination outside of 0 to 0.5.
        """
        if not 0 < self.contamination <= 0.5:
            raise InputError(f"contamination is {self.contamination}: expected a share above 0 and up to 0.5")
        figures = _figures(self._measure(), X)
        if len(figures["nats"]) < 2:
            raise InputError("fit needs at least two images, not one")
        self.reference_ = figures
        self.offset_ = float(np.quantile(-score(self.method, figures, figures), self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """(N,), higher for more usual images."""
        check_is_fitted(self, "reference_")
        return -score(self.method, _figures(self._measure(), X), self.reference_)

    def decision_function(self, X: Any) -> np.ndarray:
        """(N,), below 0 for unusual images."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """(N,): 1 for usual images, -1 for unusual ones."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def save(self, folder: str | Path) -> None:
        """Write the models and the calibration to a folder that `load` reads; nothing of it is a pickle."""
        check_is_fitted(self, "reference_")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "model")
        if self.background is not None:
            self.background.save(folder / "background")
        save_figures(self.reference_, folder / REFERENCE)
        settings = {"method": self.method, "contamination": self.contamination, "batch_size": self.batch_size}
        write_text(folder / SETTINGS, json.dumps({**settings, "offset": self.offset_}) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "AnomalyDetector":
        """Read what `save` wrote.

        Raises:
            InputError: it is missing or damaged.
        """
        folder = Path(folder)
        settings = read_json(folder / SETTINGS)
        names = {"method", "contamination", "batch_size", "offset"}
        if not isinstance(settings, dict) or set(settings) != names:
            raise InputError(f"{folder / SETTINGS} is of no detector: expected {', '.join(sorted(names))}")
        background = load_model(folder / "background") if (folder / "background").is_dir() else None
        offset = settings.pop("offset")
        detector = cls(load_model(folder / "model"), background=background, **settings)
        detector.reference_, detector.offset_ = load_figures(folder / REFERENCE), offset
        return detector

    def _measure(self) -> Measure:
        return Measure(self.model, [self.method], self.background, self.batch_size)
