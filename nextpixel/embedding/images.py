"""Images with an embedding as their condition: what a model with `condition=nextpixel.Vector(dim)` is trained on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nextpixel.data.identities import describe_single, load_by_identity, require_identities
from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import Splits
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.embedding.verification import embed_images
from nextpixel.errors import InputError


class EmbeddedImages(Images):
    r"""Images whose batches are pairs (x, f(x')) of an image and the embedding of an image x' of the same identity.

    With `of="other"` x' is *another* image of the identity: the vector then cannot tell the model which picture to copy, only
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
