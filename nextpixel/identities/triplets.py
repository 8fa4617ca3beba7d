"""The triplet loss, and batches that hold triplets.

A run of an embedding network: the same folder as a likelihood model's, the same loop, its own loss, batches and report.

RUN/  config.yaml   metrics.csv   progress.json   checkpoints/{best,last}.ckpt   model/   samples/{roc,neighbours}.png   report.md
"""

from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.identities.images import describe_single, load_by_identity
from nextpixel.identities.network import EmbeddingNetwork, save_embedding
from nextpixel.identities.report import finish_embedding
from nextpixel.identities.verification import Verification, make_pairs, score
from nextpixel.recipes import Experiment, read_experiment
from nextpixel.recipes.settings import TripletSettings
from nextpixel.training.batches import Batch, in_order, to_device
from nextpixel.training.checkpoint import Progress
from nextpixel.training.objective import Objective, Report
from nextpixel.training.processes import Agreement, Plan, is_first
from nextpixel.training.trainer import Detail, Job, fit, in_memory_order, lock

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


class Triplets(Objective):
    """Minimises the triplet loss; its validation is the area under the ROC curve of all validation images.

    Args:
        network: what is trained.
        settings: how to train it.
    """

    loss_name = "train/triplet_loss"
    metric = "val/roc_auc"
    larger_is_better = True
    loss_unit, metric_unit = "triplet loss", "ROC AUC"
    train_columns = ("train/triplets",)
    validation_columns = (metric, "val/equal_error_rate")
    network: EmbeddingNetwork

    def __init__(self, network: EmbeddingNetwork, settings: TripletSettings) -> None:
        super().__init__(network, settings)
        self.loss = TripletLoss(settings.margin, settings.mining)

    def forward(self, batch: Batch) -> Tensor:
        x, labels = batch
        embeddings = self.network(x)
        # Differences of distances around 0.2 would be lost in bf16.
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.loss(embeddings.float(), labels)

    def figures(self) -> dict[str, float]:
        return {"train/triplets": float(self.loss.mined)}

    def validate(self, network: EmbeddingNetwork, images: Images, agreement: Agreement, report: Report) -> dict[str, float]:
        size, vectors = self.settings.batch_size, []
        number = -(-len(images) // size)
        for k, batch in enumerate(in_order(images, size)):  # of all pairs of images, so that every process needs all of them
            vectors.append(network(to_device(batch, next(network.parameters()).device)[0]).float().cpu())
            report(k + 1, number)
        pairs = make_pairs(images.labels)
        verification = Verification("validation", score(torch.cat(vectors), pairs), pairs)
        return {f"val/{name}": getattr(verification, name) for name in ("roc_auc", "equal_error_rate")}

    def save(self, network: EmbeddingNetwork, folder: Path, notes: str) -> None:
        save_embedding(network, folder, notes)


def train_embedding(
    experiment: Experiment,
    out: str | Path,
    resume: bool = False,
    console: Console | None = None,
    report: Detail = "full",
    own_process: bool = False,
) -> list[Verification] | None:
    """Train an embedding network and write its run folder.

    Args:
        experiment: what to train on what; its model is named "embedding", its training is `TripletSettings`.
        out, resume, console, report, own_process: as `nextpixel.likelihood_run.train`; its report has one length.

    Returns:
        The verification of the test identities, first by the embedding; None without a report, and in the processes of further
        devices.

    Raises:
        InputError: data, settings or folder cannot be used; or the loss became infinite, and the last good checkpoint stays.
        Interrupted: a signal; everything is saved.
    """
    console = (console or Console(stderr=True)) if is_first() else Console(quiet=True)
    job = Job(experiment, Path(out), resume, console, own_process)
    if experiment.data.embedding is not None:
        raise InputError(f"--data.embedding {experiment.data.embedding} is for likelihood models: this run trains such a network")
    with job.starting():
        found = job.check()
        splits = load_by_identity(experiment.data, progress=job.first)
        torch.manual_seed(job.settings.seed)
        network = build_embedding(experiment, splits.train)
        objective = Triplets(in_memory_order(network, job.settings, found), job.settings)

    def order(plan: Plan) -> IdentityBatches:
        size = job.settings.batch_size
        return IdentityBatches(splits.train.labels, size, job.settings.images_per_identity, job.settings.seed, plan.world)

    identities = len(splits.train.labels.unique())
    parameters = sum(p.numel() for p in network.parameters())
    lines = [f"training {network.name} ({parameters:,} parameters) on {len(splits.train)} images of {identities} identities"]
    lines += filter(None, (describe_single(splits[name]) for name in ("train", "test")))
    images = (splits.train, splits.validation)
    done = fit(job, found, objective, images, order, None, lambda: experiment.save(job.out / "config.yaml"), "\n".join(lines))
    if done is None or report == "none":
        return None
    del objective
    with job.reporting():
        return finish_embedding(experiment, job.out, splits, done, console)


def write_embedding_report(
    out: str | Path, console: Console | None = None, report: Detail = "full", own_process: bool = False
) -> list[Verification]:
    """Verify a run's best weights so far and write its report, after or instead of the one that followed training.

    Its report has one length.

    Raises:
        InputError: there is no run, it is in use, it has no validated weights, or its data are gone.
        Interrupted: a signal; the report can be begun again.
    """
    console, out = console or Console(stderr=True), Path(out)
    job = Job(read_experiment(out / "config.yaml"), out, True, console, own_process)
    with lock(job), job.reporting():
        return finish_embedding(job.experiment, out, load_by_identity(job.experiment.data), Progress.read(out), console)


def build_embedding(experiment: Experiment, images: Images) -> EmbeddingNetwork:
    """The experiment's untrained network; shape and levels come from the images.

    Raises:
        InputError: settings that it does not take, or images that are too small.
    """
    settings = {name: value for name, value in experiment.model.items() if name != "name"}
    if min(images.shape[1:]) < 8:
        raise InputError(f"{experiment.data.source} has images {images.shape}: an embedding needs at least 8 rows and columns")
    try:
        return EmbeddingNetwork(shape=images.shape, levels=images.levels, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{EmbeddingNetwork.name}: {error}") from error
