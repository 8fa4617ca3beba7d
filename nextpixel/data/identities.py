"""Labels as identities: splits that share no identity, so that what is verified are people never seen in training."""

import numpy as np
import torch
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.sources import load_source
from nextpixel.data.splits import Splits, compare, limited, take_pool
from nextpixel.errors import InputError


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
