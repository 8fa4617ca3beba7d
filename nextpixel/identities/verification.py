"""Verification: are two images of the same identity? Measured on identities that were never trained on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.identities.images import require_identities
from nextpixel.identities.network import EmbeddingNetwork, embed_images

MOST_PAIRS = 10_000  # of each kind
RESAMPLES = 200  # of the identities, for the standard errors


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images of the same identity and of different ones.

    Args:
        first: index of an image, int64 (P,).
        second: index of the other image, int64 (P,).
        identities: identity of both, int64 (P, 2).
    """

    first: np.ndarray
    second: np.ndarray
    identities: np.ndarray

    @property
    def same(self) -> np.ndarray:
        """Whether a pair is of one identity, bool (P,)."""
        return self.identities[:, 0] == self.identities[:, 1]

    def describe(self) -> str:
        """How many pairs, of how many identities."""
        same, identities = int(self.same.sum()), len(np.unique(self.identities))
        return f"{same} pairs of the same and {len(self.first) - same} of different identities, {identities} identities"


def make_pairs(labels: Tensor | np.ndarray, most: int = MOST_PAIRS, seed: int = 0) -> Pairs:
    """Form the pairs that a verification is measured on; each pair of images occurs at most once.

    Same: of every identity all pairs of two of its images, but at most most / identities of them, drawn at random, so that people
    with hundreds of images do not decide the figures. Different: `most` draws of two identities, each pair of them equally often,
    and of one image of each; repeated pairs are dropped.

    Args:
        labels: identity of each image, int64 (N,).
        most: the largest number of pairs of each kind (and at least one of every identity).
        seed: of the draws.

    Raises:
        InputError: fewer than two identities, or no identity with two images.

    Example:
        >>> make_pairs(np.array([7, 7, 7, 4, 4, 5])).describe()
        '4 pairs of the same and 11 of different identities, 3 identities'
    """
    labels = np.asarray(labels)
    names = np.unique(labels)
    images = [np.flatnonzero(labels == name) for name in names]
    if len(names) < 2 or max(map(len, images)) < 2:
        what = f"all {len(labels)} images are of one identity" if len(names) < 2 else "no identity has two images"
        raise InputError(f"verification needs two identities, and two images of one of them, but {what}")
    generator = np.random.default_rng(seed)
    cap = -(-most // sum(len(own) > 1 for own in images))
    same = [_two_of(own, cap, generator) for own in images]
    one = generator.integers(len(names), size=most)
    other = (one + generator.integers(1, len(names), size=most)) % len(names)
    sizes = np.array([len(own) for own in images])
    picked = (generator.random((2, most)) * sizes[np.stack([one, other])]).astype(np.int64)
    drawn = [[images[identity][k] for identity, k in zip(*row, strict=True)] for row in zip((one, other), picked, strict=True)]
    different = np.unique(np.sort(np.array(drawn).T, axis=1), axis=0)
    first, second = np.concatenate([*same, different]).T
    return Pairs(first, second, np.stack([labels[first], labels[second]], axis=1))


def _two_of(images: np.ndarray, cap: int, generator: np.random.Generator) -> np.ndarray:
    """All pairs of these images, or `cap` of them, (pairs, 2)."""
    count = len(images) * (len(images) - 1) // 2
    first, second = np.triu_indices(len(images), k=1)
    if count > cap:
        chosen = np.sort(generator.choice(count, cap, replace=False))
        first, second = first[chosen], second[chosen]
    return np.stack([images[first], images[second]], axis=1)


@dataclass(frozen=True, eq=False)
class Verification:
    r"""How well a score tells pairs of the same identity from pairs of different ones.

    At a threshold t a pair is accepted if its score is at least t. The ROC curve is the share of accepted pairs of the same
    identity (true) over that of different ones (false); the area under it is the probability that a pair of the same identity
    scores higher than one of different ones, ties counting one half; the equal error rate is where both kinds of mistake are
    equally frequent,

    .. math:: \text{EER} = \text{FPR}(t) = 1 - \text{TPR}(t)

    between two thresholds by linear interpolation. Pairs share images and people, so they are not independent: the standard
    errors are those of a bootstrap over *identities* (`RESAMPLES` times, as many identities as there are, with replacement).
    They are nan for fewer than three identities, and rough for fewer than ten.

    Args:
        name: what the score is.
        scores: higher means more alike, (P,).
        pairs: the pairs.

    Example:
        >>> pairs = make_pairs(np.array([0, 0, 1, 1]))
        >>> scores = np.where(pairs.same, [0.9, 0.4, *[0.5] * 4], [1, 1, 0.5, 0.1, 0.2, 0.3])
        >>> verification = Verification("by hand", scores, pairs)
        >>> verification.roc_auc, verification.equal_error_rate
        (0.875, 0.25)
    """

    name: str
    scores: np.ndarray
    pairs: Pairs

    def renamed(self, name: str) -> "Verification":
        return Verification(name, self.scores, self.pairs)

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates, from (0, 0) to (1, 1)."""
        return self._curve(None)

    @property
    def roc_auc(self) -> float:
        return area_under(*self.curve)

    @property
    def equal_error_rate(self) -> float:
        return equal_error_rate(*self.curve)

    @cached_property
    def standard_errors(self) -> tuple[float, float]:
        """Of the area and of the equal error rate."""
        identities, numbers = np.unique(self.pairs.identities, return_inverse=True)
        numbers = numbers.reshape(self.pairs.identities.shape)
        if len(identities) < 3:
            return float("nan"), float("nan")
        generator, found = np.random.default_rng(0), []
        while len(found) < RESAMPLES:
            times = np.bincount(generator.integers(len(identities), size=len(identities)), minlength=len(identities))
            weights = np.where(self.pairs.same, times[numbers[:, 0]], times[numbers[:, 0]] * times[numbers[:, 1]])
            # A resample without one of the two kinds of pairs has no curve.
            if weights[self.pairs.same].any() and weights[~self.pairs.same].any():
                curve = self._curve(weights)
                found.append((area_under(*curve), equal_error_rate(*curve)))
        auc, eer = np.std(found, axis=0, ddof=1)
        return float(auc), float(eer)

    def _curve(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.metrics import roc_curve  # a second to import

        false, true, _ = roc_curve(self.pairs.same, self.scores, sample_weight=weights)
        return false, true


def area_under(false: np.ndarray, true: np.ndarray) -> float:
    """The area under a ROC curve, by trapezoids: exact, since the curve is straight between its corners."""
    return float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())


def equal_error_rate(false: np.ndarray, true: np.ndarray) -> float:
    """Where a ROC curve, given by its corners from (0, 0) to (1, 1), crosses the line true = 1 - false.

    Example:
        >>> equal_error_rate(np.array([0, 0, 1.0]), np.array([0, 1, 1.0]))
        0.0
        >>> equal_error_rate(np.array([0, 1.0]), np.array([0, 1.0]))
        0.5
    """
    gap = true + false - 1  # from -1 to 1, never falling
    k = int(np.argmax(gap >= 0))
    share = gap[k] / (gap[k] - gap[k - 1])
    return float(false[k] + share * (false[k - 1] - false[k]))


def verify(network: EmbeddingNetwork, images: Images, progress: bool = True) -> list[Verification]:
    """Verify the identities of a split by the negative squared distance of their embeddings, and of their pixels as the baseline.

    Raises:
        InputError: no labels, too few identities, or images that the network does not take.

    Example:
        >>> from nextpixel.data.splits import load_one
        >>> from nextpixel.data.settings import DataSettings
        >>> images = load_one(DataSettings(source="digits", levels=17), "test")
        >>> for verification in verify(EmbeddingNetwork(shape=(1, 8, 8), levels=17), images):
        ...     print(verification.name, len(verification.scores))
        embedding 19969
        pixel distance 19969
    """
    pairs = make_pairs(require_identities(images))
    embedded = score(embed_images(network, images, progress=progress), pairs)
    return [Verification("embedding", embedded, pairs), Verification("pixel distance", _pixels(images, pairs), pairs)]


def score(vectors: Tensor, pairs: Pairs) -> np.ndarray:
    """The negative squared distance of the vectors (N, dim) of each pair, float64 (P,)."""
    vectors = vectors.double()
    return -(vectors[pairs.first] - vectors[pairs.second]).square().sum(1).numpy()


def nearest(vectors: Tensor, queries: Tensor, number: int) -> Tensor:
    """The `number` vectors nearest to each of the queries (its own left out), nearest first, int64 (Q, number).

    Args:
        vectors: (N, dim).
        queries: indices into them, int64 (Q,).
        number: at most N - 1 are given.

    Example:
        >>> nearest(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([1, 2]), number=5).tolist()
        [[0, 2], [1, 0]]
    """
    distances = torch.cdist(vectors[queries].double(), vectors.double())
    distances[torch.arange(len(queries)), queries] = torch.inf
    return distances.argsort(dim=1, stable=True)[:, : min(number, len(vectors) - 1)]


def _pixels(images: Images, pairs: Pairs) -> np.ndarray:
    """The negative squared distance of the symbols of each pair, some pairs at a time."""
    found = []
    for start in range(0, len(pairs.first), 1024):
        chunk = slice(start, start + 1024)
        difference = images.tensor(pairs.first[chunk].tolist()) - images.tensor(pairs.second[chunk].tolist())
        found.append(-difference.flatten(1).square().sum(1))
    return torch.cat(found).double().numpy()


def print_verifications(name: str, verifications: list[Verification], console: Console) -> None:
    """The figures of each score, and below them the pairs that they are of."""
    table = Table(name, "ROC AUC", "equal error rate", box=None, pad_edge=False)
    for k, verification in enumerate(verifications):
        table.add_row(verification.name, *rounded(verification), style="bold" if k == 0 else None)
    console.print(table)
    console.print(verifications[0].pairs.describe(), highlight=False, soft_wrap=True)


def rounded(verification: Verification) -> tuple[str, str]:
    """Its area and its equal error rate with their standard errors, as they are printed."""
    auc, eer = verification.standard_errors
    return f"{verification.roc_auc:.4f} ± {auc:.4f}", f"{verification.equal_error_rate:.4f} ± {eer:.4f}"
