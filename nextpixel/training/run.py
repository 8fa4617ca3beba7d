"""One run, from an experiment to a folder with a trained model, pictures and an honest report.

RUN/  config.yaml   metrics.csv   checkpoints/{best,last}.ckpt   tensorboard/
      model/        samples/*.png   marginal.npz   report.md
"""

import csv
import logging
import shutil
import signal
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch.utils.data import DataLoader, DistributedSampler

from nextpixel.condition import Encoded, Labels, cond_of
from nextpixel.data.images import Images
from nextpixel.data.splits import load
from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import load as load_model
from nextpixel.models.storage import load_weights
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.training.callbacks import EMA, RunProgress, SampleGrid, SaveOnInterrupt, Stopwatch
from nextpixel.training.experiment import Experiment
from nextpixel.training.module import ImageModule, NonFiniteLossError
from nextpixel.training.report import Result, finish
from nextpixel.training.settings import TrainingSettings

INITIAL_IMAGES = 64  # of a data-dependent initialisation
CODE = 10  # numbers of an autoencoder's code where none are given: the smaller of the paper's two


class Interrupted(Exception):
    """Ctrl-C; what has been learned is saved, and the message says how to go on."""


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
    last, again = out / "checkpoints" / "last.ckpt", f"nextpixel train --out {out} --resume"
    if not resume and first:
        _require_empty(out)
    splits = load(experiment.data, progress=first)
    pl.seed_everything(settings.seed, verbose=False)
    model = build(experiment, splits.train)
    if resume:
        _check_checkpoint(last, model, settings)
    elif settings.start is not None:
        begin_with(model, settings.start)
    else:
        _initialise(model, splits.train)
    module = ImageModule(model.to(memory_format=torch.channels_last) if settings.channels_last else model, settings)
    marginal = PixelMarginal.fit(splits.train)
    if first:
        experiment.save(out / "config.yaml")
        marginal.save(out / "marginal.npz")

    stopwatch, on_ctrl_c = Stopwatch(), signal.getsignal(signal.SIGINT)
    trainer = _trainer(settings, out, resume, console, stopwatch)
    what = model.name if settings.stage is None else f"stage {settings.stage} of {model.name}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    console.print(f"training {what} ({trained:,} parameters) on {len(splits.train)} images")
    try:
        trainer.fit(
            module,
            _loader(splits.train, settings, trainer),
            _loader(splits.validation, settings),
            ckpt_path=last if resume else None,
        )
    except NonFiniteLossError as error:
        kept = f"{last} is the last good checkpoint" if last.exists() else "no epoch was finished, so nothing was kept"
        raise InputError(f"{error}: training stopped; {kept}; try a smaller --training.lr or --training.clip") from error
    except SystemExit as error:
        # lightning turns Ctrl-C into an exit, after its callbacks have run, and goes on ignoring the signal
        signal.signal(signal.SIGINT, on_ctrl_c)
        raise Interrupted(
            f"interrupted in epoch {trainer.current_epoch + 1} of {settings.epochs}; saved to {last}. Go on with: {again}"
        ) from error
    if not first:
        return None
    try:
        return finish(experiment, out, model, splits, marginal, trainer, stopwatch, console)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted while the trained model was evaluated. Go on with: {again}") from None


def build(experiment: Experiment, images: Images) -> AutoregressiveModel:
    """The experiment's untrained model; shape, levels and number of classes come from the images.

    Its condition is "labels", "encoded" (a code of 10 numbers), or a condition's config.

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
    number = min(INITIAL_IMAGES, len(images))
    x, labels = images.__getitems__([k * len(images) // number for k in range(number)])
    model.initialise(x, cond_of(model.condition, x, labels))


def precision(settings: TrainingSettings) -> str:
    """lightning's name of the precision: bf16 under "auto" where the device's matrix products are faster in it."""
    if settings.precision == "auto":
        if torch.cuda.is_available():
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        # torch says only in private what the processor has; without AMX or AVX512-BF16, bf16 is emulated and slower.
        fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return "bf16-mixed" if fast else "32-true"
    return "bf16-mixed" if settings.precision == "bf16" else "32-true"


def _trainer(settings: TrainingSettings, out: Path, resume: bool, console: Console, stopwatch: Stopwatch) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    checkpoints = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="best",
        monitor="val/bits_per_dim",
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    every = settings.sample_every
    averaging = [EMA(settings.ema)] if settings.ema else []
    return pl.Trainer(
        max_epochs=settings.epochs,
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision=precision(settings),
        gradient_clip_val=settings.clip or None,
        check_val_every_n_epoch=settings.eval_every,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[
            stopwatch,
            RunProgress(console),
            SampleGrid(out / "samples", every, settings.samples, settings.seed),
            *averaging,
            SaveOnInterrupt(out / "checkpoints" / "last.ckpt"),
            checkpoints,
        ],
        logger=_loggers(out, resume) if rank_zero_only.rank == 0 else False,
        default_root_dir=out,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loggers(out: Path, resume: bool) -> list[Logger]:
    table = out / "metrics.csv"
    rows = table.read_text() if resume and table.is_file() else ""
    metrics = CSVLogger(out.parent, name=out.name, version="", flush_logs_every_n_steps=10)
    writer = metrics.experiment  # which removes an earlier metrics.csv
    if rows:
        table.write_text(rows)
        writer.metrics_keys = next(csv.reader([rows.splitlines()[0]]))
    return [metrics, TensorBoardLogger(out, name="tensorboard", version="")]


def _loader(images: Images, settings: TrainingSettings, trainer: pl.Trainer | None = None) -> DataLoader:
    """Batches from one call each; shuffled by (seed, epoch) and shared between the devices where a trainer is given."""
    sampler = None
    if trainer is not None:
        replicas, rank = trainer.world_size, trainer.global_rank
        sampler = DistributedSampler(images, replicas, rank, shuffle=True, seed=settings.seed)
    return DataLoader(
        images,
        batch_size=settings.batch_size,
        sampler=sampler,
        # A short last batch would be compiled anew, and weigh its images more.
        drop_last=trainer is not None and len(images) >= settings.batch_size * trainer.world_size,
        collate_fn=_identity,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )


def _identity(batch: object) -> object:
    return batch


def _require_compiler() -> None:
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        raise InputError("--training.compile true needs a C++ compiler (g++ or clang++): install one, or set it to false")


def _require_empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: expected a folder for the run")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty: give another folder, or --resume to go on with the run in it")
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
        if made:
            out.rmdir()  # until there is something to write: the data may be refused
    except OSError as error:
        raise InputError(f"--out {out} cannot be written to: {error.strerror or error}") from error


def _check_checkpoint(last: Path, model: AutoregressiveModel, settings: TrainingSettings) -> None:
    try:
        checkpoint = torch.load(last, map_location="cpu", weights_only=True)
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except Exception as error:
        raise InputError(f"{last} is no checkpoint of a run: {' '.join(str(error).split())[:200]}") from error
    load_weights(model, weights, last)
    # Interrupted after its last epoch, while it was evaluated, a run can still be finished.
    if epoch >= settings.epochs and (last.parent.parent / "model").is_dir():
        raise InputError(f"the run is finished ({epoch} of {settings.epochs} epochs): give more --training.epochs to go on")
