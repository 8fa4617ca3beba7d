"""The triplet loss, and batches that hold triplets."""

from typing import Literal

import torch
from torch import Tensor, nn

from nextpixel.errors import InputError

Mining = Literal["semi-hard", "hard", "all"]


class TripletLoss(nn.Module):
    r"""The triplet loss with online mining (Schroff, Kalenichenko, Philbin 2015, arXiv:1503.03832, equations 1 to 4).

    .. math:: \frac{1}{|T|} \sum_{(a, p, n) \in T} \max(0, \; d(a, p) - d(a, n) + m), \qquad d(a, b) = \lVert f_a - f_b \rVert_2^2

    over the mined triplets T of a batch: anchor a and positive p are two images of one identity, the negative n is of another,
    and the triplet violates the margin m. Semi-hard triplets have d(a, p) < d(a, n) <= d(a, p) + m, hard ones d(a, n) <= d(a, p),
    and "all" is both. Where a batch has none, the loss is 0.

    Args:
        margin: m, of squared distances of unit vectors, which are from 0 to 4.
        mining: which of the violating triplets to learn from.

    Raises:
        InputError: a margin that no triplet can violate or keep.

    Shapes:
        embeddings (B, dim), labels int64 (B,); the loss is a scalar.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8], [-1.0, 0.0]])
        >>> loss = TripletLoss(margin=3.0)
        >>> [anchor.tolist() for anchor in loss.mine(embeddings, torch.tensor([0, 0, 1, 2]))]
        [[0, 0], [1, 1], [2, 3]]
        >>> round(loss(embeddings, torch.tensor([0, 0, 1, 2])).item(), 4)  # the mean of 2 - 3.2 + 3 and 2 - 4 + 3
        1.4
    """

    def __init__(self, margin: float = 0.2, mining: Mining = "semi-hard") -> None:
        # 1.3 s to import beside torch (scikit-learn and scipy), and only training needs it
        from pytorch_metric_learning import distances, losses, miners

        super().__init__()
        if not 0 < margin < 4:
            raise InputError(f"margin must be between 0 and 4, the largest squared distance of unit vectors, not {margin}")
        if mining not in ("semi-hard", "hard", "all"):
            raise InputError(f"mining must be semi-hard, hard or all, not {mining!r}")
        self.margin, self.mining = margin, mining
        distance = distances.LpDistance(normalize_embeddings=False, p=2, power=2)
        self._miner = miners.TripletMarginMiner(margin, mining.replace("-", ""), distance=distance)
        self._loss = losses.TripletMarginLoss(margin, distance=distance)
        self.mined = 0  # triplets in the last batch

    def mine(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of anchors, positives and negatives of the mined triplets, each int64 (T,)."""
        return self._miner(embeddings, labels)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        triplets = self.mine(embeddings, labels)
        self.mined = len(triplets[0])
        return self._loss(embeddings, labels, triplets)


class IdentityBatches:
    """Batches of P identities with K images of each, one after the other, anew in every epoch.

    Each batch takes K random images of each of P distinct identities. An identity with fewer images gives all it has, and one
    more identity fills its place: no image stands twice in a batch, because an image is no positive of itself. Identities count
    equally, however many images they have. An epoch has as many images as the split (and whole batches only).

    (The sampler of pytorch-metric-learning draws an image twice where an identity has fewer than K, and its order cannot be had
    again when a run is resumed: it comes from numpy's global generator. This one's comes from seed, epoch and device.)

    Args:
        labels: identity of each image, int64 (N,).
        batch_size: images per batch, P * K.
        images_per_identity: K.
        seed: of the order.
        processes: that train; each has batches of its own, and image r of process k stands at r * processes + k.

    Raises:
        InputError: no identity with two images, or the images of one batch cannot be found.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
        >>> [labels[batch].tolist() for batch in IdentityBatches(labels, batch_size=4, images_per_identity=2).batches(epoch=0)]
        [[2, 2, 0, 0], [0, 0, 2, 2]]
    """

    def __init__(self, labels: Tensor, batch_size: int, images_per_identity: int, seed: int = 0, processes: int = 1) -> None:
        if images_per_identity < 2 or batch_size < 2 * images_per_identity:
            given = f"{images_per_identity} images per identity in batches of {batch_size}"
            raise InputError(f"{given}: expected at least 2 images of each of at least 2 identities")
        images = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
        # An identity with a single image has no positive pair; nothing can be learned with it as an anchor.
        self.images = [own for own in images if len(own) > 1]
        self.batch_size, self.images_per_identity = batch_size, images_per_identity
        self.seed, self.processes = seed, processes
        most = sum(min(len(own), images_per_identity) for own in self.images)
        if len(self.images) < 2 or most < batch_size:
            raise InputError(
                f"a batch of {batch_size} images, at most {images_per_identity} per identity, cannot be filled: there are "
                f"{len(self.images)} identities with at least two images, which give {most}"
            )
        self._number = max(1, len(labels) // (batch_size * processes))

    def batches(self, epoch: int) -> list[list[int]]:
        """Positions of the images of an epoch's batches, over all processes."""
        each = [self._of_process(epoch, process) for process in range(self.processes)]
        return [[image for together in zip(*same, strict=True) for image in together] for same in zip(*each, strict=True)]

    def _of_process(self, epoch: int, process: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) * self.processes + process)
        found = []
        for _ in range(self._number):
            batch: list[int] = []
            for identity in torch.randperm(len(self.images), generator=generator).tolist():
                own = self.images[identity]
                batch += own[torch.randperm(len(own), generator=generator)[: self.images_per_identity]].tolist()
                if len(batch) >= self.batch_size:
                    break
            found.append(batch[: self.batch_size])
        return found
