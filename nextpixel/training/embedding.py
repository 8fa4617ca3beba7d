"""A run of an embedding network: the same folder as a likelihood model's, the same loop, its own loss, batches and report.

RUN/  config.yaml   metrics.csv   progress.json   checkpoints/{best,last}.ckpt   model/   samples/{roc,neighbours}.png   report.md
"""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from nextpixel.data.identities import describe_single, load_by_identity
from nextpixel.data.images import Images
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.embedding.storage import save_embedding
from nextpixel.embedding.triplets import IdentityBatches, TripletLoss
from nextpixel.embedding.verification import Verification, make_pairs, score
from nextpixel.errors import InputError
from nextpixel.training.batches import Batch, in_order, to_device
from nextpixel.training.checkpoint import Progress
from nextpixel.training.embedding_report import finish_embedding
from nextpixel.training.experiment import Experiment, read_experiment
from nextpixel.training.objective import Objective, Report
from nextpixel.training.processes import Agreement, Plan, is_first
from nextpixel.training.settings import TripletSettings
from nextpixel.training.trainer import Detail, Job, fit, in_memory_order, lock


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
        out, resume, console, report, own_process: as `nextpixel.training.run.train`; its report has one length.

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


def write_embedding_report(out: str | Path, console: Console | None = None, own_process: bool = False) -> list[Verification]:
    """Verify a run's best weights so far and write its report, after or instead of the one that followed training.

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
