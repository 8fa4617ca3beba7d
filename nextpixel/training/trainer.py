"""What every kind of run does in the same way: lightning's trainer, Ctrl-C, and the checks of folder and checkpoint."""

import csv
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, Sampler

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.models.storage import Storable, load_weights
from nextpixel.training.callbacks import EMA, SaveOnInterrupt
from nextpixel.training.module import NonFiniteLossError
from nextpixel.training.settings import TrainingSettings
from nextpixel.training.throughput import LoadingTime, Stopwatch


class Interrupted(Exception):
    """Ctrl-C; what has been learned is saved, and the message says how to go on."""


def make_trainer(
    settings: TrainingSettings,
    out: Path,
    resume: bool,
    stopwatch: Stopwatch,
    callbacks: list[pl.Callback],
    images: int,
    monitor: str = "val/bits_per_dim",
    mode: str = "min",
) -> pl.Trainer:
    """The trainer of a run over so many images, with averaged weights and checkpoints; `monitor` chooses the best epoch, by its
    `mode`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    checkpoints = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="best",
        monitor=monitor,
        mode=mode,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    averaging = [EMA(settings.ema)] if settings.ema else []
    return pl.Trainer(
        max_epochs=settings.epochs,
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision=precision(settings),
        gradient_clip_val=settings.clip or None,
        accumulate_grad_batches=settings.accumulate,
        check_val_every_n_epoch=settings.eval_every,
        # A run of a few steps has a curve too.
        log_every_n_steps=min(10, settings.epochs * max(1, images // settings.batch_size)),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[stopwatch, *callbacks, *averaging, SaveOnInterrupt(out / "checkpoints" / "last.ckpt"), checkpoints],
        logger=_loggers(out, resume) if rank_zero_only.rank == 0 else False,
        default_root_dir=out,
        profiler=LoadingTime(stopwatch),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def precision(settings: TrainingSettings) -> str:
    """lightning's name of the precision: bf16 under "auto" where the device's matrix products are faster in it."""
    if settings.precision == "auto":
        if torch.cuda.is_available():
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        # torch says only in private what the processor has; without AMX or AVX512-BF16, bf16 is emulated and slower.
        fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return "bf16-mixed" if fast else "32-true"
    return "bf16-mixed" if settings.precision == "bf16" else "32-true"


def _loggers(out: Path, resume: bool) -> list[Logger]:
    table = out / "metrics.csv"
    rows = table.read_text() if resume and table.is_file() else ""
    metrics = CSVLogger(out.parent, name=out.name, version="", flush_logs_every_n_steps=10)
    writer = metrics.experiment  # which removes an earlier metrics.csv
    if rows:
        table.write_text(rows)
        writer.metrics_keys = next(csv.reader([rows.splitlines()[0]]))
    return [metrics, TensorBoardLogger(out, name="tensorboard", version="")]


def fit(
    trainer: pl.Trainer, module: pl.LightningModule, train: DataLoader, validation: DataLoader, out: Path, resume: bool
) -> None:
    """Run the training loop, from the run's last checkpoint if `resume`.

    Raises:
        InputError: the loss became infinite.
        Interrupted: Ctrl-C.
    """
    last, on_ctrl_c = out / "checkpoints" / "last.ckpt", signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train, validation, ckpt_path=last if resume else None)
    except NonFiniteLossError as error:
        kept = f"{last} is the last good checkpoint" if last.exists() else "no epoch was finished, so nothing was kept"
        raise InputError(f"{error}: training stopped; {kept}; try a smaller --training.lr or --training.clip") from error
    except SystemExit as error:
        # lightning turns Ctrl-C into an exit, after its callbacks have run, and goes on ignoring the signal
        signal.signal(signal.SIGINT, on_ctrl_c)
        where = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        raise Interrupted(f"interrupted in {where}; saved to {last}. Go on with: {_again(out)}") from error


@contextmanager
def evaluating(out: Path) -> Iterator[None]:
    """What is done with a trained model can be interrupted too.

    Raises:
        Interrupted: Ctrl-C in the body.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted while the trained model was evaluated. Go on with: {_again(out)}") from None


def _again(out: Path) -> str:
    return f"nextpixel train --out {out} --resume"


def loader(
    images: Images, settings: TrainingSettings, sampler: Sampler[int] | None = None, drop_last: bool = False
) -> DataLoader:
    """Batches of a split, each from one call of its `__getitems__`; in its order where there is no sampler."""
    return DataLoader(
        images,
        batch_size=settings.batch_size,
        sampler=sampler,
        drop_last=drop_last,
        collate_fn=_whole,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )


def _whole(batch: object) -> object:
    """A batch is what `Images` gives for its indices. (Not a lambda: processes that load data must find it.)"""
    return batch


def require_empty(out: Path) -> None:
    """Make sure that a new run's folder can be written and overwrites nothing.

    Raises:
        InputError: it cannot, or would.
    """
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


def check_checkpoint(last: Path, model: Storable, settings: TrainingSettings) -> None:
    """Make sure that a run can go on from its last checkpoint.

    Raises:
        InputError: no checkpoint, one of another architecture, or the run is finished.
    """
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
