"""Images of identities: with the embedding of a photograph as their condition, and in splits that share no identity.

A model with `condition=nextpixel.Vector(dim)` is trained on the former. Verification needs the latter:
people never seen in training.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import Splits, compare, limited, load, load_source, take_pool
from nextpixel.errors import InputError
from nextpixel.identities.network import EmbeddingNetwork, embed_images, kept_embedding, load_embedding
from nextpixel.recipes import Experiment, read_experiment

CONDITION = "embedding"  # as `--model.condition` names it


class EmbeddedImages(Images):
    r"""Images whose batches are pairs (x, f(x')) of an image and the embedding of an image x' of the same identity.

    With `of="other"` x' is *another* image of the identity: the vector then does not identify which picture to copy, only
    whose, and new pictures of a person follow from one. With `of="itself"` x' = x, as the portraits of arXiv:1606.05328
    (section 3.3). The embeddings are computed once, from the stored images at the network's own number of levels, whatever
    the levels of x.

    Args:
        images: a split; where it is a training split, another x' is drawn at every access, from torch's global generator,
            and else x' is the identity's next image, always the same.
        network: a trained embedding network; its vectors are kept, not the network.
        of: which image's embedding.
        progress: whether to show a bar, if stderr is a terminal.

    Raises:
        InputError: with "other", no labels, or an identity with a single image; images that the network does not take.

    Example:
        >>> from nextpixel.data.splits import load
        >>> from nextpixel.data.settings import DataSettings
        >>> test = load(DataSettings(source="digits", levels=2, binarize="threshold")).test
        >>> pairs = EmbeddedImages(test, EmbeddingNetwork(shape=(1, 8, 8), levels=17, dim=16))
        >>> x, vectors = pairs.__getitems__([0, 5, 6])
        >>> x.shape, vectors.shape
        (torch.Size([3, 1, 8, 8]), torch.Size([3, 16]))
    """

    def __init__(
        self, images: Images, network: EmbeddingNetwork, of: Literal["itself", "other"] = "other", progress: bool = True
    ) -> None:
        if of not in ("itself", "other"):
            raise InputError(f"of must be itself or other, not {of!r}")
        super().__init__(images.raw, images.settings, images.training, images.split, images.indices)
        self.of = of
        if of == "other":
            identities = require_identities(images)
            if single := describe_single(images):
                raise InputError(f"{single}; there is no other image to embed: leave them out, or give of='itself'")
            # Images sorted by identity: those of one identity lie side by side, from `first` on, `count` of them.
            self._order = identities.argsort(stable=True)
            _, inverse, counts = identities.unique(return_inverse=True, return_counts=True)
            self._first, self._count = (counts.cumsum(0) - counts)[inverse], counts[inverse]
            self._rank = self._order.argsort() - self._first
        self.vectors = embed_images(network, as_seen_by(network, images), progress=progress)

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch, int64 (B, C, H, W), and its vectors, (B, dim)."""
        positions = torch.as_tensor(indices, dtype=torch.long)
        return self.tensor(indices), self.vectors[self.embedded(positions)]

    def embedded(self, positions: Tensor) -> Tensor:
        """Positions of the images whose embeddings these images get, int64 (B,); drawn anew for a training split."""
        if self.of == "itself":
            return positions
        count = self._count[positions]
        # From 1 to count - 1 places on in the circle of the identity's images: never the image itself.
        further = 1 + (torch.rand(len(positions)) * (count - 1)).long() if self.training else torch.ones_like(count)
        return self._order[self._first[positions] + (self._rank[positions] + further) % count]


def as_seen_by(network: EmbeddingNetwork, images: Images, positions: Tensor | None = None) -> Images:
    """The stored images of a split (or those at some positions, int64) at a network's levels, neither binarised nor flipped."""
    settings = replace(images.settings, levels=network.levels, binarize="none")
    indices = images.indices
    if positions is not None:
        indices = positions.numpy() if indices is None else indices[positions.numpy()]
    return Images(images.raw, settings, split=images.split, indices=indices)


def load_embedded(settings: DataSettings, network: EmbeddingNetwork, progress: bool = True) -> Splits:
    """Load `settings.source` with a vector for every image, in splits that share no identity.

    Raises:
        InputError: as `load_by_identity` and `EmbeddedImages`.

    Example:
        >>> settings = DataSettings(source="digits-identities", levels=17)
        >>> splits = load_embedded(settings, EmbeddingNetwork(shape=(1, 8, 8), levels=17, dim=4, features=8), progress=False)
        >>> splits.test.dim, len(splits.test)
        (4, 1440)
    """
    splits = load_by_identity(settings, progress)
    parts = (splits.train, splits.validation, splits.test)
    return Splits(*(EmbeddedImages(part, network, settings.embedding_of, progress) for part in parts))


def load_by_identity(settings: DataSettings, progress: bool = True) -> Splits:
    """Load `settings.source` as `splits.load` does, but carve a missing test or validation split out *by identity*.

    Of the identities of the training images (or of all images, where the source has one part) a random share, by the seed, goes
    to each missing split with all of its images; `settings.test` and `settings.validation` are these shares.

    Raises:
        InputError: the source cannot be used; it has no labels; its own splits share an identity; or a split would have fewer
            than two identities, or no identity with two images.

    Example:
        >>> splits = load_by_identity(DataSettings(source="digits", levels=17, validation=0.2, test=0.3))
        >>> [sorted(set(splits[name].labels.tolist())) for name in splits]
        [[0, 1, 5, 8, 9], [3, 7], [2, 4, 6]]
    """
    parts = load_source(settings.source, settings, progress)
    compare(parts, settings.source)
    pool = take_pool(parts, settings.source)
    labels = {name: require_identities(Images(part, settings, split=name)) for name, part in {"train": pool, **parts}.items()}
    shares = {name: getattr(settings, name) for name in ("test", "validation") if name not in parts}
    carved = _carve(labels["train"].numpy(), shares, settings)
    images = {name: Images(part, settings, split=name) for name, part in parts.items()}
    for name, indices in carved.items():
        images[name] = Images(pool, settings, training=name == "train", split=name, indices=indices)
    splits = Splits(limited(images.pop("train")), images.pop("validation"), images.pop("test"), images)
    _refuse_shared(splits, settings.source)
    for name in ("train", "validation", "test"):
        _require_pairs(splits[name], name, settings)
    return splits


def require_identities(images: Images) -> Tensor:
    """The identity of each image, int64 (N,).

    Raises:
        InputError: there are none.
    """
    if images.labels is None:
        raise InputError(f"{images.settings.source} has no labels: an embedding is learned from the identity in each image")
    return images.labels


def describe_single(images: Images) -> str:
    """One sentence on the identities of a split with a single image, which has no positive pair; "" where there are none.

    Example:
        >>> from nextpixel.data.raw import RawImages
        >>> raw = RawImages(np.zeros((3, 1, 8, 8), dtype=np.uint8), np.array([0, 0, 1]), ["Ada", "Bob"], levels=256)
        >>> describe_single(Images(raw, DataSettings(), split="train"))
        '1 of 2 train identities has a single image and forms no pair of the same identity: Bob'
    """
    names, counts = require_identities(images).unique(return_counts=True)
    single = names[counts == 1].tolist()
    if not single:
        return ""
    first = f"{_name(images, single[0])}{', ...' if len(single) > 1 else ''}"
    verbs = "has a single image and forms" if len(single) == 1 else "have a single image each and form"
    return f"{len(single)} of {len(names)} {images.split} identities {verbs} no pair of the same identity: {first}"


def _name(images: Images, identity: int) -> str:
    return str(identity) if images.class_names is None else images.class_names[identity]


def _carve(labels: np.ndarray, shares: dict[str, float], settings: DataSettings) -> dict[str, np.ndarray]:
    """The images of each named share of the identities, and of the rest, "train"."""
    order = np.random.default_rng(settings.seed).permutation(np.unique(labels))
    carved, total = {}, len(order)
    for name, share in shares.items():
        size = round(total * share)
        carved[name], order = np.flatnonzero(np.isin(labels, order[:size])), order[size:]
    carved["train"] = np.flatnonzero(np.isin(labels, order))
    return carved


def _refuse_shared(splits: Splits, source: str) -> None:
    """Raise InputError where two of the three splits have an identity in common."""
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        both = splits[one].labels.unique()
        shared = both[torch.isin(both, splits[other].labels.unique())].tolist()
        if shared:
            raise InputError(
                f"the {one} and {other} splits of {source} share {len(shared)} identities ({_name(splits[one], shared[0])}"
                f"{', ...' if len(shared) > 1 else ''}): an embedding is verified on identities never seen in training"
            )


def _require_pairs(images: Images, name: str, settings: DataSettings) -> None:
    """Raise InputError where a split cannot form a pair of each kind."""
    counts = images.labels.unique(return_counts=True)[1]
    if len(counts) >= 2 and int(counts.max()) >= 2:
        return
    single = describe_single(images)
    found = single if len(counts) >= 2 else f"{len(counts)} identities ({len(images)} images)"
    asked = f"--data.validation {settings.validation:g}, --data.test {settings.test:g}"
    raise InputError(
        f"the {name} split of {settings.source} needs two identities, and two images of one of them, but it has {found}; "
        f"missing splits are shares of the identities: {asked}"
    )


def embedding_network(experiment: Experiment, run: str | Path | None = None) -> EmbeddingNetwork | None:
    """The network whose vectors the experiment's model is conditioned on: the one that `run` keeps, else the one it names.

    Raises:
        InputError: it names none and needs one, or names one that nothing is conditioned on, or there is none there.
    """
    wanted, named = experiment.model.get("condition") == CONDITION, experiment.data.embedding
    if wanted and named is None:
        raise InputError(f"--model.condition {CONDITION} needs a trained embedding network: give its run as --data.embedding RUN")
    if not wanted and named is not None:
        raise InputError(
            f"--data.embedding {named} makes vectors that nothing is conditioned on: give --model.condition {CONDITION}"
        )
    if not wanted:
        return None
    if run is not None:
        return kept_embedding(run)
    _require_same_identities(experiment.data, Path(named) / "config.yaml")
    return load_embedding(named)


def _require_same_identities(data: DataSettings, config: Path) -> None:
    """Raise InputError where an embedding network was trained on the same data, and on identities that this run sets aside."""
    theirs = read_experiment(config).data if config.is_file() else None
    if theirs is None or theirs.source != data.source:
        return
    for name in ("seed", "validation", "test"):
        mine, other = getattr(data, name), getattr(theirs, name)
        if mine != other:
            split = f"so identities that are tested here may have been learned there: give --data.{name} {other}"
            raise InputError(
                f"--data.embedding {config.parent} was trained with --data.{name} {other}, this run has {mine}, {split}"
            )


def load_images(data: DataSettings, network: EmbeddingNetwork | None, progress: bool = True) -> Splits:
    """The splits of a run: with vectors, and by identity, where there is a network that makes them.

    Raises:
        InputError: as `splits.load` or `load_embedded`.
    """
    return load(data, progress) if network is None else load_embedded(data, network, progress)
