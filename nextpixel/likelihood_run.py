"""One run, from an experiment to a folder with a trained model, pictures and an honest report.

RUN/  config.yaml   metrics.csv   progress.json   checkpoints/{best,last}.ckpt   model/ (the best weights so far)
      samples/*.png   trained.npy (hashes of the training images)
      marginal.npz   report.md   embedding/ (the network whose vectors a model is conditioned on)
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from nextpixel.conditions import Combination, Condition, Encoded, Known, Labels, Vector, cond_of, default_cond
from nextpixel.data.images import Images
from nextpixel.data.splits import Splits, absolute
from nextpixel.data.trained import changed, read_trained, save_trained
from nextpixel.errors import InputError
from nextpixel.identities.images import CONDITION, EmbeddedImages, embedding_network, load_images
from nextpixel.identities.likeness import Portraits, portrait_section, portray
from nextpixel.identities.network import INSIDE, EmbeddingNetwork, save_embedding
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.names import captions
from nextpixel.models.start import MOST_PLACES, start_head
from nextpixel.models.storage import load as load_model
from nextpixel.models.storage import load_weights
from nextpixel.pictures.grid import save_grid
from nextpixel.recipes import Experiment, read_experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.report import COUNTED, Result, finish
from nextpixel.reports.sections import Section
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.training.batches import Shuffled, to_device
from nextpixel.training.checkpoint import Progress
from nextpixel.training.loop import DrawGrid
from nextpixel.training.objective import Likelihood
from nextpixel.training.processes import Plan, is_first
from nextpixel.training.trainer import Detail, Job, fit, in_memory_order, lock

INITIAL_IMAGES = 64  # of a data-dependent initialisation
MOST_ALONE = 100  # classes that may have fewer than two training images on average
CODE = 10  # numbers of an autoencoder's code where none are given: the smaller of the paper's two


def train(
    experiment: Experiment,
    out: str | Path,
    resume: bool = False,
    console: Console | None = None,
    report: Detail = "full",
    own_process: bool = False,
) -> Result | None:
    """Train a model and write its run folder.

    Args:
        experiment: what to train on what.
        out: the run folder; it must be new or empty unless `resume`.
        resume: go on from checkpoints/last.ckpt, with the bits of an uninterrupted run.
        console: where progress and results are printed.
        report: what follows training: "none", "short" (likelihood and pictures), or "full" (also baselines, and what only some
            models have: classes, reconstructions, portraits). `write_report` can make up for it later.
        own_process: whether a signal may end the process at once where nothing has to be saved, as on the command line.

    Returns:
        The result; None without a report, and in the processes of further devices, of which only the first writes and prints.

    Raises:
        InputError: data, settings or folder cannot be used; or the loss became infinite, and the last good checkpoint stays.
        Interrupted: a signal; everything is saved.
    """
    console = (console or Console(stderr=True)) if is_first() else Console(quiet=True)
    job = Job(experiment, Path(out), resume, console, own_process)
    with job.starting():
        found = job.check()
        network = embedding_network(experiment, out if job.goes_on else None)
        splits = load_images(experiment.data, network, progress=job.first)
        torch.manual_seed(job.settings.seed)
        model = build(experiment, splits.train)
        if found_changes := changed(splits.train, job.out) if job.first and job.goes_on else "":
            console.print(found_changes, highlight=False, soft_wrap=True)
        if model.codes:
            splits.train.check_codes()
        if not job.goes_on:
            if job.settings.start is not None:
                console.print(begin_with(model, job.settings.start), highlight=False, soft_wrap=True)
            else:
                _initialise(model, splits.train)
        marginal = PixelMarginal.fit(splits.train)
        objective = Likelihood(in_memory_order(model, job.settings, found), job.settings, experiment.data.masks)

    def prepare() -> None:
        kept_data = replace(experiment.data, source=absolute(experiment.data.source), classes=model.class_names)
        replace(experiment, data=kept_data).save(job.out / "config.yaml")
        if not job.goes_on or read_trained(job.out) is not None:  # of a run of before not all is known
            save_trained(splits.train, job.out, further=job.goes_on)
        marginal.save(job.out / "marginal.npz")
        if network is not None and not job.goes_on:
            save_embedding(network, job.out / INSIDE)

    def order(plan: Plan) -> Shuffled:
        size = job.settings.batch_size * plan.world
        if plan.world > 1 and len(splits.train) < size:
            raise InputError(
                f"{len(splits.train)} training images are fewer than a batch of {job.settings.batch_size} in each of "
                f"{plan.world} processes: give a smaller --training.batch_size"
            )
        return Shuffled(len(splits.train), size, job.settings.seed)

    what = model.name if job.settings.stage is None else f"stage {job.settings.stage} of {model.name}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    title = f"training {what} ({trained:,} parameters) on {len(splits.train)} images"
    draw = grids(splits.validation, job.settings)
    done = fit(job, found, objective, (splits.train, splits.validation), order, draw, prepare, title)
    if done is None or report == "none":
        return None
    del objective
    with job.reporting():
        return _report(job, splits, marginal, done, network, report)


def write_report(out: str | Path, console: Console | None = None, report: Detail = "full", own_process: bool = False) -> Result:
    """Evaluate a run's best weights so far and write its report, after or instead of the one that followed training.

    Args:
        out: the run folder.
        console: where progress and results are printed.
        report: "short" or "full", as in `train`.
        own_process: as in `train`.

    Raises:
        InputError: there is no run, it is in use, it has no validated weights, or its data are gone.
        Interrupted: a signal; the report can be begun again.
    """
    console, out = console or Console(stderr=True), Path(out)
    job = Job(read_experiment(out / "config.yaml"), out, True, console, own_process)
    with lock(job), job.reporting():
        network = embedding_network(job.experiment, out)
        splits = load_images(job.experiment.data, network)
        marginal = PixelMarginal.load(out / "marginal.npz", splits.train.shape, splits.train.levels)
        return _report(job, splits, marginal, Progress.read(out), network, report)


def _report(
    job: Job, splits: Splits, marginal: PixelMarginal, done: Progress, network: EmbeddingNetwork | None, detail: Detail
) -> Result:
    """The report of trained weights, with portraits where the model is conditioned on the vectors of a network."""
    training = job.settings

    def loss(model: AutoregressiveModel) -> Tensor:
        """Of a copy of the model: only its arithmetic counts."""
        objective = Likelihood(type(model)(**model.config).to(model.device), replace(training, compile=False))
        batch = splits.train.__getitems__(range(min(COUNTED, len(splits.train))))
        return objective.bits_per_dim(to_device(batch, model.device))

    def portraits(model: AutoregressiveModel) -> tuple[Portraits, Section]:
        found = portray(model, network, splits.test, training.seed, job.out)
        return found, portrait_section(found)

    drawn = None if network is None else portraits
    return finish(job.experiment, job.out, splits, marginal, done, job.console, loss, detail, drawn)


def grids(images: Images, settings: TrainingSettings) -> DrawGrid:
    """What draws sample grids, always from the same noise, so that one can watch a model learn; `images` give conditions."""

    def draw(model: nn.Module, path: Path, pause: Any) -> None:
        cond = default_cond(model, settings.samples, images)
        x = model.sample(settings.samples, cond=cond, seed=settings.seed, progress=pause)
        save_grid(x, model.levels, path, codes=model.codes, captions=captions(model, cond, len(x)))

    return draw


def build(experiment: Experiment, images: Images) -> AutoregressiveModel:
    """The experiment's untrained model; shape, levels and number of classes come from the images.

    Its condition is "labels", "encoded" (a code of 10 numbers), "embedding" (the vectors of `EmbeddedImages`), "known" (what is
    given of an image), "labels+known", or a condition's config.

    Raises:
        InputError: an unknown architecture or settings that it does not take.
    """
    settings = dict(experiment.model)
    name = settings.pop("name", None)
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    if isinstance(settings.get("condition"), str):
        parts = [_condition(part, experiment, images) for part in settings["condition"].split("+")]
        settings["condition"] = parts[0] if len(parts) == 1 else Combination(*parts)
    try:
        model = MODELS[name](shape=images.shape, levels=images.levels, **settings)
        labelled = model.condition is not None and any(isinstance(part, Labels) for part in model.condition.each())
        model.class_names = getattr(images, "class_names", None) if labelled and experiment.data.split_by != "position" else None
        return model
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from error


def _condition(name: str, experiment: Experiment, images: Images) -> Condition:
    """A condition that is named by a word, for the images of an experiment."""
    if name == Encoded.name:
        return Encoded(CODE)
    if name == Known.name:
        return Known()
    if name == Vector.name:
        if images.vectors is None:
            raise InputError("--model.condition vector needs numbers with each image: a .csv table and --data.vector a,b,c")
        return Vector(images.vectors.shape[1])
    if name == CONDITION:
        if not isinstance(images, EmbeddedImages):
            raise InputError(f"--model.condition {CONDITION} needs images with vectors, but {experiment.data.source} has none")
        return Vector(images.dim)
    if images.classes is None:
        raise InputError(f"--model.condition labels needs labelled images, but {experiment.data.source} has no labels")
    values = images.classes
    if values > MOST_ALONE and values > len(images) // 2 and len(np.unique(images.labels)) > len(images) // 2:
        what = f"the labels of {experiment.data.source} have {values} values for {len(images)} images"
        raise InputError(f"--model.condition labels: {what}: these are no classes; leave --model.condition out")
    return Labels(values)


def begin_with(model: AutoregressiveModel, start: str) -> str:
    """Give a model the weights of a run, a model folder or a bundled model, as far as they fit; a line says what was taken.

    Images may be of another size, with other levels, channels or conditions: weights of another shape, and those that the other
    model lacks, stay as they begin.

    Raises:
        InputError: no model there, one of another architecture, or one without any weight that fits.
    """
    other = load_model(start)
    if other.name != model.name:
        raise InputError(f"--training.start {start} is a {other.name}, but this run trains a {model.name}")
    given, own = other.state_dict(), model.state_dict()
    fit = {name: given[name] for name, value in own.items() if name in given and given[name].shape == value.shape}
    if not any(value.is_floating_point() and value.numel() > 1 for value in fit.values()):
        raise InputError(f"--training.start {start}: none of its weights fits this {model.name}: the sizes of its layers differ")
    new = [name for name in own if name not in fit]
    load_weights(model, {**own, **fit}, Path(start))
    if not new:
        return f"begins with the weights of {start}"
    taken, numbers = (sum(own[name].numel() for name in names) for names in (fit, own))
    shown = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
    return f"begins with {len(fit)} of {len(own)} weights of {start} ({taken / numbers:.0%} of the numbers); anew: {shown}"


def _initialise(model: AutoregressiveModel, images: Images) -> None:
    """Data-dependent initialisation, the same in the process of every device; spread over a split that may be sorted by class."""
    x, labels = images.__getitems__(images.spread(INITIAL_IMAGES))
    model.initialise(x, cond_of(model.condition, x, labels))
    x = images.tensor(images.spread(max(INITIAL_IMAGES, MOST_PLACES // math.prod(images.shape[1:]))))
    start_head(model, x)
