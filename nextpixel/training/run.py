"""One run, from an experiment to a folder with a trained model, pictures and an honest report.

RUN/  config.yaml   metrics.csv   checkpoints/{best,last}.ckpt   tensorboard/
      model/        samples/*.png   marginal.npz   report.md   embedding/ (the network whose vectors a model is conditioned on)
"""

import shutil
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch.utils.data import DataLoader, DistributedSampler

from nextpixel.condition import Encoded, Labels, Vector, cond_of
from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import Splits, load
from nextpixel.embedding.images import EmbeddedImages, load_embedded
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.embedding.storage import INSIDE, kept_embedding, load_embedding, save_embedding
from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import load as load_model
from nextpixel.models.storage import load_weights
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.training.callbacks import RunProgress, SampleGrid
from nextpixel.training.experiment import Experiment, read_experiment
from nextpixel.training.module import ImageModule
from nextpixel.training.report import Result, finish
from nextpixel.training.settings import EMBEDDING, TrainingSettings
from nextpixel.training.throughput import Stopwatch
from nextpixel.training.trainer import check_checkpoint, evaluating, fit, loader, make_trainer, require_empty

INITIAL_IMAGES = 64  # of a data-dependent initialisation
CODE = 10  # numbers of an autoencoder's code where none are given: the smaller of the paper's two


def train(experiment: Experiment, out: str | Path, resume: bool = False, console: Console | None = None) -> Result | None:
    """Train a model and write its run folder.

    Args:
        experiment: what to train on what.
        out: the run folder; it must be new or empty unless `resume`.
        resume: go on from checkpoints/last.ckpt.
        console: where progress and results are printed.

    Returns:
        The result; None in the processes of further devices, of which only the first writes and prints.

    Raises:
        InputError: data, settings or folder cannot be used; or the loss became infinite, and the last good checkpoint stays.
        Interrupted: Ctrl-C.
    """
    # lightning starts this function once per device; in the first process the folder is made, so the others must find it.
    first = rank_zero_only.rank == 0
    out, console, settings = Path(out), (console or Console(stderr=True)) if first else Console(quiet=True), experiment.training
    settings.check()
    if settings.compile:
        _require_compiler()
    if not resume and first:
        require_empty(out)
    network = embedding_network(experiment, out if resume else None)
    splits = load_images(experiment.data, network, progress=first)
    pl.seed_everything(settings.seed, verbose=False)
    model = build(experiment, splits.train)
    if model.codes:
        splits.train.check_codes()
    if resume:
        check_checkpoint(out / "checkpoints" / "last.ckpt", model, settings)
    elif settings.start is not None:
        begin_with(model, settings.start)
    else:
        _initialise(model, splits.train)
    module = ImageModule(model.to(memory_format=torch.channels_last) if settings.channels_last else model, settings)
    marginal = PixelMarginal.fit(splits.train)
    if first:
        experiment.save(out / "config.yaml")
        marginal.save(out / "marginal.npz")
        if network is not None:
            save_embedding(network, out / INSIDE)

    stopwatch = Stopwatch()
    grid = SampleGrid(out / "samples", settings.sample_every, settings.samples, settings.seed)
    trainer = make_trainer(settings, out, resume, stopwatch, [RunProgress(console), grid], len(splits.train))
    what = model.name if settings.stage is None else f"stage {settings.stage} of {model.name}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    console.print(f"training {what} ({trained:,} parameters) on {len(splits.train)} images")
    fit(trainer, module, _shuffled(splits.train, settings, trainer), loader(splits.validation, settings), out, resume)
    if not first:
        return None
    with evaluating(out):
        return finish(experiment, out, model, splits, marginal, trainer, stopwatch, console, network)


def embedding_network(experiment: Experiment, run: str | Path | None = None) -> EmbeddingNetwork | None:
    """The network whose vectors the experiment's model is conditioned on: the one that `run` keeps, else the one it names.

    Raises:
        InputError: it names none and needs one, or names one that nothing is conditioned on, or there is none there.
    """
    wanted, named = experiment.model.get("condition") == EMBEDDING, experiment.data.embedding
    if wanted and named is None:
        raise InputError(f"--model.condition {EMBEDDING} needs a trained embedding network: give its run as --data.embedding RUN")
    if not wanted and named is not None:
        raise InputError(
            f"--data.embedding {named} makes vectors that nothing is conditioned on: give --model.condition {EMBEDDING}"
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


def build(experiment: Experiment, images: Images) -> AutoregressiveModel:
    """The experiment's untrained model; shape, levels and number of classes come from the images.

    Its condition is "labels", "encoded" (a code of 10 numbers), "embedding" (the vectors of `EmbeddedImages`), or a condition's
    config.

    Raises:
        InputError: an unknown architecture or settings that it does not take.
    """
    settings = dict(experiment.model)
    name = settings.pop("name", None)
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    if settings.get("condition") == "labels":
        if images.classes is None:
            raise InputError(f"--model.condition labels needs labelled images, but {experiment.data.source} has no labels")
        settings["condition"] = Labels(images.classes)
    elif settings.get("condition") == Encoded.name:
        settings["condition"] = Encoded(CODE)
    elif settings.get("condition") == EMBEDDING:
        if not isinstance(images, EmbeddedImages):
            raise InputError(f"--model.condition {EMBEDDING} needs images with vectors, but {experiment.data.source} has none")
        settings["condition"] = Vector(images.dim)
    try:
        return MODELS[name](shape=images.shape, levels=images.levels, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def begin_with(model: AutoregressiveModel, start: str) -> None:
    """Give a model the weights of a run or model folder. Only the images' size may differ.

    Raises:
        InputError: no model there, or one of another architecture; the message names the first difference.
    """
    other = load_model(start)
    if other.name != model.name:
        raise InputError(f"--training.start {start} is a {other.name}, but this run trains a {model.name}")
    for name, value in {**model.config, "shape": model.shape[0]}.items():
        theirs = other.shape[0] if name == "shape" else other.config[name]
        if theirs != value:
            what = "channels" if name == "shape" else name
            raise InputError(f"--training.start {start} has {what} {theirs}, but this run's {model.name} has {value}")
    load_weights(model, other.state_dict(), Path(start))


def _initialise(model: AutoregressiveModel, images: Images) -> None:
    """Data-dependent initialisation, the same in the process of every device; spread over a split that may be sorted by class."""
    x, labels = images.__getitems__(images.spread(INITIAL_IMAGES))
    model.initialise(x, cond_of(model.condition, x, labels))


def _shuffled(images: Images, settings: TrainingSettings, trainer: pl.Trainer) -> DataLoader:
    """Batches shuffled by (seed, epoch) and shared between the devices."""
    sampler = DistributedSampler(images, trainer.world_size, trainer.global_rank, shuffle=True, seed=settings.seed)
    # A short last batch would be compiled anew, and weigh its images more.
    return loader(images, settings, sampler, drop_last=len(images) >= settings.batch_size * trainer.world_size)


def _require_compiler() -> None:
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        raise InputError("--training.compile true needs a C++ compiler (g++ or clang++): install one, or set it to false")
