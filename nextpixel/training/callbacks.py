"""What happens around the training loop: averaged weights, progress, pictures, and saving on Ctrl-C."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from nextpixel.condition import Labels, Vector, cond_of, encoder_of
from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.pictures import save_grid


class EMA(WeightAveraging):
    r"""Averaged weights :math:`\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta` with :math:`d_n = \min(d, (1+n)/(10+n))`.

    A plain average lags by 1/(1-d) steps, which ruins short runs: the warm-up lets it start at once. Validation, sample grids
    and the checkpoints' `state_dict` use the average; training goes on with the weights themselves.
    """

    def __init__(self, decay: float) -> None:
        def average(averages: tuple[Tensor, ...], weights: tuple[Tensor, ...], updates: Tensor | int) -> None:
            n = int(updates)
            torch._foreach_lerp_(list(averages), list(weights), 1 - min(decay, (1 + n) / (10 + n)))

        super().__init__(use_buffers=False, multi_avg_fn=average)


class SaveOnInterrupt(Callback):
    """Ctrl-C and SIGTERM save `last.ckpt`; a diverged run does not, so that the last good one stays."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            trainer.save_checkpoint(self.path)


class SampleGrid(Callback):
    """Draws a grid with the averaged weights every few epochs, always from the same noise, so that one can watch it learn.

    Must stand before `EMA` in the list of callbacks, which takes the averaged weights out again after validation.
    """

    def __init__(self, folder: Path, every: int, number: int, seed: int) -> None:
        self.folder, self.every, self.number, self.seed = folder, every, number, seed

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if not self.every or epoch % self.every or trainer.sanity_checking or not trainer.is_global_zero:
            return
        model = pl_module.model
        cond = default_cond(model, self.number, trainer.val_dataloaders.dataset)
        x = model.sample(self.number, cond=cond, seed=self.seed)
        save_grid(x, model.levels, self.folder / f"epoch-{epoch:04d}.png", codes=model.codes)


def default_cond(model: Any, number: int, images: Images | None = None) -> Any:
    """Labels 0, 1, 2, ... in turn for a class-conditional model, None for an unconditional one, else what goes with images.

    The images are spread over a split, which may be sorted by class; one may come several times.

    Raises:
        InputError: the model depends on images, or on their vectors, where none are given: nobody can make them up.
    """
    if model.condition is None:
        return None
    if isinstance(model.condition, Labels):
        return torch.arange(number) % model.condition.features
    if images is not None:
        return cond_of(model.condition, *images.__getitems__([k * len(images) // number for k in range(number)]))
    if encoder_of(model.condition) is not None or isinstance(model.condition, Vector):
        raise InputError("the model draws images like a given one: name one with --like, or in Python, model.sample(n, cond)")
    raise InputError(f"the model's condition is {model.condition.name}, not labels: give it in Python, model.sample(n, cond)")


class RunProgress(Callback):
    """One bar over all steps of the run with the time left, and one line per validation; on a log file the lines only.

    `metric` is the figure of a validation; `loss` and `unit` say what the training loss and this figure are.
    """

    def __init__(
        self, console: Console, metric: str = "val/bits_per_dim", loss: str = "bits/dim", unit: str = "bits/dim"
    ) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
        )
        self.console, self.metric, self.loss, self.unit = console, metric, loss, unit
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task: TaskID | None = None
        self.losses: list[Tensor] = []  # since the last validation; on their device, so that nothing waits for a GPU

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = int(trainer.estimated_stepping_batches)
        self.task = self.progress.add_task("training", total=total, completed=trainer.global_step, figures="")
        self.progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].detach())
        if self.task is not None and (batch_idx % 10 == 0 or trainer.is_last_batch):
            figures = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, {outputs['loss'].item():.3f} {self.loss}"
            self.progress.update(self.task, completed=trainer.global_step, figures=figures)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        train, self.losses = torch.stack(self.losses).mean(), []
        self.console.print(
            f"epoch {trainer.current_epoch + 1:4d} of {trainer.max_epochs}   step {trainer.global_step}   "
            f"train {train:.4f} {self.loss}   validation {trainer.callback_metrics[self.metric]:.4f} {self.unit}",
            highlight=False,
            soft_wrap=True,
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.progress.stop()
