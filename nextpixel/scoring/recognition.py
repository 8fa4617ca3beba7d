"""Are samples of the wanted class? A plain classifier, trained on real images, classifies them.

This is the measure that arXiv:1807.09499 calls GAN-test. It does not measure variety: a model that drew the same good picture
of a class again and again would pass.

What guidance does to a model: how many samples are recognised, and what test images cost, from strength to strength.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.models.base import AutoregressiveModel
from nextpixel.progress import rows_bar
from nextpixel.sampling.draw import SCAN_BATCH
from nextpixel.scan.raster import Progress
from nextpixel.scoring.evaluation import Evaluation, evaluate

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


MOST_CLASSES = 100  # with more, one scan of samples has hardly any of each
MOST_IMAGES = 20_000  # to train on: some seconds, and 0.974 on binarised MNIST, where half as many reach 0.964
COMPONENTS = 50
BATCH = 1024  # images read at once


STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SCORED = 500  # images whose likelihood is computed at every strength


@dataclass(frozen=True, eq=False)
class Recognition:
    """What a classifier sees in N images, each of which should be of a certain class.

    Args:
        wanted: the class that each should be of, int (N,).
        found: the class that the classifier sees, int (N,).
        classes: K, classes 0..K-1.

    Example:
        >>> recognition = Recognition(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 1]), classes=3)
        >>> recognition.accuracy, recognition.per_class, recognition.mistake(0), recognition.mistake(1)
        (0.6, array([0.33333333, 1.        ,        nan]), (1, 2), None)
    """

    wanted: np.ndarray
    found: np.ndarray
    classes: int

    @property
    def accuracy(self) -> float:
        """The share of images that are recognised."""
        return float((self.wanted == self.found).mean())

    @property
    def standard_error(self) -> float:
        """Of the accuracy; with two more right and two more wrong (Agresti and Coull 1998), so that it is never 0."""
        number = len(self.wanted) + 4
        share = ((self.wanted == self.found).sum() + 2) / number
        return math.sqrt(share * (1 - share) / number)

    @property
    def confusion(self) -> np.ndarray:
        """How many images that should be of class k are seen as class l, int64 (K, K)."""
        pairs = np.bincount(self.wanted * self.classes + self.found, minlength=self.classes**2)
        return pairs.reshape(self.classes, self.classes)

    @property
    def per_class(self) -> np.ndarray:
        """The accuracy of each class, float64 (K,); nan where no image should be of it."""
        confusion = self.confusion
        with np.errstate(invalid="ignore"):
            return confusion.diagonal() / confusion.sum(1)

    def mistake(self, k: int) -> tuple[int, int] | None:
        """The class that images of class k are most often taken for, and how many are; None if all are recognised."""
        others = self.confusion[k]
        others[k] = 0
        return (int(others.argmax()), int(others.max())) if others.any() else None


class Classifier:
    r"""50 principal components P x of an image x, and a support vector machine with the kernel

    .. math:: k(x, y) = \exp(-\gamma \lVert P x - P y \rVert^2), \qquad \gamma^{-1} = 50 \operatorname{Var}[P x], \quad C = 10

    with symbols scaled to 0..1. Any levels and channels will do. On test images it is right for all 180 of scikit-learn's digits
    and for 0.974 of MNIST binarised to 0 and 1.

    Args:
        pipeline: the fitted pair, from scikit-learn.
        shape: (C, H, W) of the images.
        levels: L, symbols 0..L-1.
        classes: K, classes 0..K-1.
    """

    def __init__(self, pipeline: "Pipeline", shape: tuple[int, int, int], levels: int, classes: int) -> None:
        self.pipeline, self.shape, self.levels, self.classes = pipeline, shape, levels, classes

    @classmethod
    def fit(cls, images: Images, most: int = MOST_IMAGES, seed: int = 0) -> "Classifier":
        """Train one on labelled images.

        Args:
            images: the split; of at most `most` images, spread over it.
            most: how many.
            seed: of what is drawn: components of large images, and bits where they are drawn at every access.

        Raises:
            InputError: no labels, images of a single class, or a source with more than 100 classes.

        Example:
            >>> from nextpixel.data.settings import DataSettings
            >>> from nextpixel.data.splits import load
            >>> splits = load(DataSettings(source="digits", levels=17))
            >>> classifier = Classifier.fit(splits.train)
            >>> classifier.recognise_images(splits.test).accuracy > 0.98
            True
        """
        from sklearn.decomposition import PCA  # scikit-learn takes a second to import
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        _require_classes(images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            x, labels = _read(images, most)
        if len(np.unique(labels)) < 2:
            raise InputError(f"a classifier needs images of two classes, but all {len(labels)} are of class {labels[0]}")
        components = PCA(min(COMPONENTS, *x.shape), random_state=seed)
        return cls(make_pipeline(components, SVC(C=10)).fit(x, labels), images.shape, images.levels, images.classes)

    def recognise(self, x: Tensor, wanted: Tensor) -> Recognition:
        """What it sees in images, integers (N, C, H, W), that should be of these classes, int (N,).

        Raises:
            InputError: the images have another shape than those it was trained on.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"the classifier is for images {self.shape}, these are {tuple(x.shape[1:])}")
        return Recognition(wanted.cpu().numpy(), self.pipeline.predict(_scaled(x.cpu(), self.levels)), self.classes)

    def recognise_images(self, images: Images, most: int = MOST_IMAGES) -> Recognition:
        """What it sees in at most so many real images, spread over a split: what samples that are like them can reach.

        Raises:
            InputError: the images have no labels, or another shape or other levels than those it was trained on.
        """
        _require_classes(images)
        if (images.shape, images.levels) != (self.shape, self.levels):
            what = f"images {self.shape} with {self.levels} levels"
            raise InputError(f"the classifier is for {what}, these are {images.shape} with {images.levels} levels")
        x, labels = _read(images, most)
        return Recognition(labels, self.pipeline.predict(x), self.classes)


def recognise_samples(
    model: AutoregressiveModel,
    classifier: Classifier,
    seed: int = 0,
    guidance: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Tensor, Recognition]:
    """Draw images of every class, and classify them.

    As many of each class as fit into one scan: 256 by the number of classes. Equal seeds give equal noise for every guidance.

    Args:
        model: whose condition is `Labels`, of symbols with an order: in codes there is nothing to see.
        classifier: of images of the same kind and the same classes.
        seed: of the noise.
        guidance: as for `sample`.
        progress: as for `sample`; `sampled(classes)` images are drawn.

    Returns:
        The samples, (N, C, H, W), of classes 0, 1, ..., K-1, 0, 1, ..., and what is seen in them.

    Raises:
        InputError: classifier and model are for other classes or images.

    Example:
        >>> import nextpixel
        >>> from nextpixel.data.settings import DataSettings
        >>> from nextpixel.data.splits import load
        >>> classifier = Classifier.fit(load(DataSettings(source="digits", levels=17)).train)
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=17, features=8, blocks=1, condition=nextpixel.Labels(10))
        >>> x, recognition = recognise_samples(model, classifier)
        >>> x.shape, recognition.accuracy < 0.5  # it has learned nothing yet
        (torch.Size([250, 1, 8, 8]), True)
    """
    classes = model.condition.features
    if (classes, model.levels) != (classifier.classes, classifier.levels):
        what = f"{classifier.classes} classes and {classifier.levels} levels"
        raise InputError(f"the classifier is for {what}, the model for {classes} and {model.levels}")
    labels = torch.arange(sampled(classes)) % classes
    x = model.sample(len(labels), labels, seed, guidance=guidance, progress=progress)
    return x, classifier.recognise(x, labels)


def sampled(classes: int) -> int:
    """How many images of so many classes are drawn: as many of each as fit into one scan.

    Example:
        >>> sampled(10), sampled(100)
        (250, 200)
    """
    return SCAN_BATCH // classes * classes


def _require_classes(images: Images) -> None:
    if images.labels is None:
        raise InputError(f"{images.settings.source} has no labels: a classifier learns the class in each image")
    if images.classes > MOST_CLASSES:
        raise InputError(f"a classifier is for at most {MOST_CLASSES} classes, but {images.settings.source} has {images.classes}")


def _read(images: Images, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scaled images, float32 (N, D), and their labels, int64 (N,)."""
    chosen = images.spread(most)
    batches = (chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH))
    x = np.concatenate([_scaled(images.__getitems__(batch)[0], images.levels) for batch in batches])
    return x, images.labels[chosen].numpy()


def _scaled(x: Tensor, levels: int) -> np.ndarray:
    return (x.flatten(1) / (levels - 1)).float().numpy()


@dataclass(frozen=True, eq=False)
class Strength:
    """A model under guidance of one strength.

    Args:
        guidance: s, 0 for the unconditional model and 1 for the model itself.
        samples: of all classes, (N, C, H, W), from the same noise at every strength.
        recognition: what a classifier sees in them.
        evaluation: the likelihood of test images, the same at every strength.
    """

    guidance: float
    samples: Tensor
    recognition: Recognition
    evaluation: Evaluation


def sweep(
    model: AutoregressiveModel,
    classifier: Classifier,
    images: Images,
    strengths: tuple[float, ...] = STRENGTHS,
    scored: int = SCORED,
    seed: int = 0,
) -> list[Strength]:
    """Draw from a class-conditional model at some strengths of guidance, and score real images by the same distributions.

    Args:
        model: whose condition is `Labels`, trained with condition dropout: else its unconditional distribution is untrained.
        classifier: of images of the same kind.
        images: labelled images to score.
        strengths: of guidance.
        scored: how many images at most, spread over the split.
        seed: of the noise.

    Raises:
        InputError: as `recognise_samples` or `evaluate`.

    Example:
        >>> import nextpixel
        >>> from nextpixel.data.settings import DataSettings
        >>> from nextpixel.data.splits import load
        >>> splits = load(DataSettings(source="digits", levels=17))
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=17, features=8, blocks=1, condition=nextpixel.Labels(10))
        >>> for line in sweep(model, Classifier.fit(splits.train), splits.test, strengths=(1, 2), scored=20):
        ...     print(line.guidance, line.samples.shape, line.evaluation.nats.shape)
        1 torch.Size([250, 1, 8, 8]) (20,)
        2 torch.Size([250, 1, 8, 8]) (20,)
    """
    rows = model.scan_rows(sampled(model.condition.features))
    with rows_bar(f"drawing at {len(strengths)} strengths of guidance", rows * len(strengths)) as progress:
        drawn = [recognise_samples(model, classifier, seed, s, progress) for s in strengths]
    scores = [evaluate(model, images, guidance=s, most=scored) for s in strengths]
    return [Strength(s, *of_s, score) for s, of_s, score in zip(strengths, drawn, scores, strict=True)]
