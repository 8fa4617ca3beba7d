"""How unusual an image is: the likelihood, and the corrections without which it misleads.

A high likelihood is no sign that an image is like the training images: a model of Fashion-MNIST finds the plainer digits of MNIST
*more* likely (Nalisnick et al. 2019, arXiv:1810.09136). Of each image a few figures are measured, in nats, and a score is made of
them; higher is more unusual.

    likelihood    -log p(x)
    complexity    -log p(x) minus the size of the smallest file of a general codec (Serra et al. 2020, arXiv:1909.11480)
    ratio         -log p(x) + log q(x), q a background model (Ren et al. 2019, arXiv:1906.02845)
    typicality    |-log p(x) - m| / s, with mean m and deviation s of validation images (Nalisnick et al. 2019, arXiv:1906.02994)
    shuffle       -log p(x) + log p of the same pixels in a random order: what their arrangement is worth
    combined      the Mahalanobis distance of likelihood and complexity (and ratio) from those of validation images
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel.conditions import cond_of
from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.models.base import AutoregressiveModel
from nextpixel.progress import track
from nextpixel.scan.evaluating import eval_mode
from nextpixel.scoring.baselines import codec_nats

METHODS = ("likelihood", "complexity", "ratio", "typicality", "shuffle", "combined")
BATCH = 64
LEAST = 2  # reference images: fewer have no deviation
Figures = dict[str, np.ndarray]  # of N images, by name


def surprise(model: AutoregressiveModel, x: Any, cond: Any = None) -> Tensor:
    r"""Nats of every symbol, given all earlier ones: (B, C, H, W), whose sum over an image is -log p(x).

    .. math:: s_i = -\log p(x_i \mid x_{<i})

    Args:
        model: any model.
        x: integers (B, C, H, W).
        cond: the condition, for one image or for all.

    Raises:
        InputError: as `log_prob` of a model.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1)
        >>> surprise(model, torch.zeros(3, 1, 8, 8, dtype=torch.long)).shape
        torch.Size([3, 1, 8, 8])
    """
    x = model.check_images(x)
    with eval_mode(model), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return -model.likelihood.log_prob_each(model(x, cond), x)


@dataclass(frozen=True)
class Measure:
    """Measures the figures that scores are made of.

    Args:
        model: whose likelihood counts.
        methods: the scores that are wanted.
        background: a second model, for "ratio".
        batch_size: images of a forward pass.

    Raises:
        InputError: an unknown method, or "ratio" without a background model, or with one for other images.
    """

    model: AutoregressiveModel
    methods: Sequence[str] = ("likelihood",)
    background: AutoregressiveModel | None = None
    batch_size: int = BATCH

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"--method {method}: expected some of {', '.join(METHODS)}")
        if "ratio" in self.methods and self.background is None:
            raise InputError("the method ratio needs a background model: --background RUN")
        if self.background is not None:
            mine, theirs = ((m.shape[0], m.levels) for m in (self.model, self.background))
            if mine != theirs:
                of = "{} channels and {} levels"
                raise InputError(f"the background model is for {of.format(*theirs)}, but the model for {of.format(*mine)}")

    def images(self, images: Images, most: int | None = None, what: str = "scoring", progress: bool = True) -> Figures:
        """The figures of a split's images, or of some that are spread over it.

        Raises:
            InputError: there are none, or they are not those that the model is for.
        """
        chosen = images.spread(len(images) if most is None else most)
        if not chosen:
            raise InputError("there are no images to score: the split is empty")
        self._require_fit(images)
        starts = range(0, len(chosen), self.batch_size)
        parts = []
        for start in track(starts, len(starts), what, progress):
            x, labels = images.__getitems__(chosen[start : start + self.batch_size])
            parts.append(self.batch(x, labels))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def batch(self, x: Tensor, labels: Tensor | None = None) -> Figures:
        """The figures of images x (B, C, H, W), in float64."""
        device = self.model.device
        x, labels = x.to(device), None if labels is None else labels.to(device)
        found = {"nats": _nats(self.model, x, labels)}
        if {"complexity", "combined"} & set(self.methods):
            found["codec"] = codec_nats(x.cpu().numpy(), self.model.levels)
        if self.background is not None:
            found["background"] = _nats(self.background, x, labels)
        if "shuffle" in self.methods:
            found["shuffle"] = _nats(self.model, _shuffled(x), labels)
        return found

    def _require_fit(self, images: Images) -> None:
        if (images.shape[0], images.levels) != (self.model.shape[0], self.model.levels):
            mine = f"{self.model.shape[0]} channels and {self.model.levels} levels"
            raise InputError(f"the model is for {mine}, the data have {images.shape[0]} and {images.levels}")


def _nats(model: AutoregressiveModel, x: Tensor, labels: Tensor | None) -> np.ndarray:
    with eval_mode(model), torch.inference_mode(), torch.autocast(x.device.type, enabled=False):
        return -model.log_prob(x, cond_of(model.condition, x, labels)).double().cpu().numpy()


def _shuffled(x: Tensor) -> Tensor:
    """The places of each image in a random order that is the same for all images of a size."""
    order = torch.randperm(math.prod(x.shape[2:]), generator=torch.Generator().manual_seed(0)).to(x.device)
    return x.flatten(2)[..., order].view_as(x)


def score(method: str, figures: Figures, reference: Figures | None = None) -> np.ndarray:
    """Scores of N images by a method from their figures, and from those of reference images where it is relative to them.

    Raises:
        InputError: reference images are missing, or all of them have the same figures.

    Example:
        >>> score("complexity", {"nats": np.array([5.0, 9.0]), "codec": np.array([4.0, 2.0])})
        array([1., 7.])
    """
    nats = figures["nats"]
    if method == "likelihood":
        return nats
    if method == "complexity":
        return nats - figures["codec"]
    if method == "ratio":
        return nats - figures["background"]
    if method == "shuffle":
        return nats - figures["shuffle"]
    if reference is None or len(reference["nats"]) < LEAST:
        raise InputError(
            f"the method {method} needs at least {LEAST} reference images: the run's validation images, or fit(images)"
        )
    if method == "typicality":
        deviation = reference["nats"].std()
        if deviation == 0:
            raise InputError("the method typicality: all reference images have the same likelihood")
        return np.abs(nats - reference["nats"].mean()) / deviation
    return _distance(_vectors(figures), _vectors(reference))


def _vectors(figures: Figures) -> np.ndarray:
    others = [name for name in ("codec", "background") if name in figures]
    return np.stack([figures["nats"], *(figures["nats"] - figures[name] for name in others)], 1)


def _distance(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    from sklearn.covariance import LedoitWolf
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(reference)
    fitted = LedoitWolf().fit(scaler.transform(reference))
    return np.sqrt(fitted.mahalanobis(scaler.transform(vectors)))


def percentile(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """More unusual than so many percent of the reference images.

    Example:
        >>> percentile(np.array([0.5, 2.5, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
        array([  0.,  50., 100.])
    """
    return 100 * np.searchsorted(np.sort(reference), scores, side="left") / len(reference)


@dataclass(frozen=True)
class Separation:
    """How well scores tell other images (positive) from usual ones, each with its interval of 95 % by the bootstrap.

    Attributes:
        auroc: area under the ROC curve: 0.5 is chance.
        aupr: area under the precision-recall curve.
        fpr95: share of usual images above the threshold that 95 % of the others pass.
    """

    auroc: tuple[float, float, float]
    aupr: tuple[float, float, float]
    fpr95: tuple[float, float, float]


def separate(usual: np.ndarray, others: np.ndarray, resamples: int = 200, seed: int = 0) -> Separation:
    """Compare the scores of usual and of other images; each figure is (value, lower, upper).

    Example:
        >>> separate(np.arange(50.0), np.arange(100.0, 150.0)).fpr95
        (0.0, 0.0, 0.0)
    """
    rng = np.random.default_rng(seed)
    value = _figures_of(usual, others)
    drawn = [_figures_of(rng.choice(usual, len(usual)), rng.choice(others, len(others))) for _ in range(resamples)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Separation(*((float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)))


def _figures_of(usual: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, scores = np.repeat([0, 1], [len(usual), len(others)]), np.concatenate([usual, others])
    threshold = np.quantile(others, 0.05, method="lower")
    return roc_auc_score(truth, scores), average_precision_score(truth, scores), float((usual >= threshold).mean())


def save_figures(figures: Figures, path: Path) -> None:
    """Write figures of reference images as .npz."""
    with write_aside(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **figures)


def load_figures(path: Path) -> Figures:
    """Read what `save_figures` wrote.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise whatever damage makes them stumble upon
        raise InputError(
            f"cannot read the figures of reference images in {path}: {' '.join(str(error).split())[:200]}"
        ) from error
    if "nats" not in found or any(a.dtype.kind != "f" or a.ndim != 1 or not np.isfinite(a).all() for a in found.values()):
        raise InputError(f"{path} holds no figures of reference images: expected finite numbers, among them nats")
    return found


def smoothed(maps: Tensor, size: int) -> Tensor:
    """Means over windows of `size` x `size` places of maps (B, H, W), with fewer places at the border.

    Example:
        >>> smoothed(torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]), 3)[0, 1, 1].item()
        1.0
    """
    if size < 2:
        return maps
    pool = torch.nn.AvgPool2d(size, stride=1, padding=size // 2, count_include_pad=False)
    return pool(maps[:, None])[:, 0, : maps.shape[1], : maps.shape[2]]


def maps(model: AutoregressiveModel, x: Tensor, cond: Any = None, background: AutoregressiveModel | None = None) -> Tensor:
    """Where an image is unusual: nats of each place, (B, H, W), minus those of a background model if there is one.

    They sum to the score by likelihood, or by ratio.
    """
    found = surprise(model, x, cond).sum(1)
    return found if background is None else found - surprise(background, x, cond).sum(1)
