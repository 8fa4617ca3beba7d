"""A run of an embedding network: the same folder as a likelihood model's, the same trainer, its own loss, batches and report.

RUN/  config.yaml   metrics.csv   checkpoints/{best,last}.ckpt   tensorboard/   model/   samples/{roc,neighbours}.png   report.md
"""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch import Tensor

from nextpixel.data.identities import describe_single, load_by_identity
from nextpixel.data.images import Images
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.embedding.triplets import IdentityBatches, TripletLoss
from nextpixel.embedding.verification import Verification, make_pairs, score
from nextpixel.errors import InputError
from nextpixel.training.callbacks import RunProgress
from nextpixel.training.embedding_report import finish_embedding
from nextpixel.training.experiment import Experiment
from nextpixel.training.module import Module, NonFiniteLossError
from nextpixel.training.settings import TripletSettings
from nextpixel.training.throughput import Stopwatch
from nextpixel.training.trainer import check_checkpoint, evaluating, fit, loader, make_trainer, require_empty


class TripletModule(Module):
    """Minimises the triplet loss; its validation is the area under the ROC curve of all validation images.

    Args:
        model: the network.
        settings: how to train it.
    """

    def __init__(self, model: EmbeddingNetwork, settings: TripletSettings) -> None:
        super().__init__(model, settings)
        self.loss = TripletLoss(settings.margin, settings.mining)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        embeddings = self.model(x)
        # Differences of distances around 0.2 would be lost in bf16.
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self.loss(embeddings, labels)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss is {loss.item()} at step {self.global_step}")
        self.log("train/triplet_loss", loss, batch_size=len(x))
        self.log("train/triplets", float(self.loss.mined), batch_size=len(x))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, labels = batch
        self._seen.append((self.model(x).cpu(), labels.cpu()))
        if batch_idx + 1 < self.trainer.num_val_batches[0]:
            return
        vectors, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        pairs = make_pairs(labels)
        verification = Verification("validation", score(vectors, pairs), pairs)
        for name in ("roc_auc", "equal_error_rate"):
            self.log(f"val/{name}", getattr(verification, name), batch_size=1, sync_dist=True)


def train_embedding(
    experiment: Experiment, out: str | Path, resume: bool = False, console: Console | None = None
) -> list[Verification] | None:
    """Train an embedding network and write its run folder.

    Args:
        experiment: what to train on what; its model is named "embedding", its training is `TripletSettings`.
        out: the run folder; it must be new or empty unless `resume`.
        resume: go on from checkpoints/last.ckpt.
        console: where progress and results are printed.

    Returns:
        The verification of the test identities, first by the embedding; None in the processes of further devices.

    Raises:
        InputError: data, settings or folder cannot be used; or the loss became infinite, and the last good checkpoint stays.
        Interrupted: Ctrl-C.
    """
    first = rank_zero_only.rank == 0
    out, console, settings = Path(out), (console or Console(stderr=True)) if first else Console(quiet=True), experiment.training
    settings.check()
    if experiment.data.embedding is not None:
        raise InputError(f"--data.embedding {experiment.data.embedding} is for likelihood models: this run trains such a network")
    if not resume and first:
        require_empty(out)
    splits = load_by_identity(experiment.data, progress=first)
    pl.seed_everything(settings.seed, verbose=False)
    network = build_embedding(experiment, splits.train)
    if resume:
        check_checkpoint(out / "checkpoints" / "last.ckpt", network, settings)
    module = TripletModule(network.to(memory_format=torch.channels_last) if settings.channels_last else network, settings)
    stopwatch = Stopwatch()
    progress = RunProgress(console, "val/roc_auc", "triplet loss", "ROC AUC")
    trainer = make_trainer(settings, out, resume, stopwatch, [progress], len(splits.train), "val/roc_auc", "max")
    batches = IdentityBatches(
        splits.train.labels,
        settings.batch_size,
        settings.images_per_identity,
        settings.seed,
        trainer.world_size,
        trainer.global_rank,
    )
    if first:
        experiment.save(out / "config.yaml")
    identities = len(splits.train.labels.unique())
    parameters = sum(p.numel() for p in network.parameters())
    console.print(f"training {network.name} ({parameters:,} parameters) on {len(splits.train)} images of {identities} identities")
    for name in ("train", "test"):
        if single := describe_single(splits[name]):
            console.print(single, highlight=False, soft_wrap=True)
    fit(trainer, module, loader(splits.train, settings, batches), loader(splits.validation, settings), out, resume)
    if not first:
        return None
    with evaluating(out):
        return finish_embedding(experiment, out, network, splits, trainer, stopwatch, console)


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
