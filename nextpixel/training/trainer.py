"""What every kind of run does in the same way, round the loop: checks, processes, folder, lock and checkpoint."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn

from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.locks import LOCK, lock_folder
from nextpixel.models.storage import Storable, load_weights
from nextpixel.recipes import Experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.batches import Loader, Order
from nextpixel.training.checkpoint import LAST, Place, Progress, read_checkpoint
from nextpixel.training.loop import DrawGrid, Loop
from nextpixel.training.metrics import METRICS, Metrics, RunProgress, make_logger, require_logger
from nextpixel.training.objective import Objective
from nextpixel.training.optimisation import Budget
from nextpixel.training.processes import (
    Agreement,
    Plan,
    ProcessLost,
    is_first,
    lost_becomes_an_error,
    make_fabric,
    plan,
    watch_parent,
)
from nextpixel.training.signals import Unwind

Network = TypeVar("Network", bound=nn.Module)
Detail = Literal["none", "short", "full"]  # of a run's report


@dataclass
class Job:
    """A run that is to be trained, in one of its processes.

    Args:
        experiment: what on what.
        out: the run folder.
        resume: whether to go on with the run in it.
        console: where people look; quiet in all processes but the first.
        own_process: whether a signal may end the process where it has nothing to save.
    """

    experiment: Experiment
    out: Path
    resume: bool
    console: Console
    own_process: bool = False

    @property
    def settings(self) -> TrainingSettings:
        return self.experiment.training

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to go on from; a run that was killed before its first one begins anew."""
        return self.resume and (self.out / LAST).is_file()

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return is_first()

    def check(self) -> Plan:
        """Refuse what cannot be trained, before any long work.

        Raises:
            InputError: settings, folder or devices cannot be used.
        """
        self.settings.check()
        if self.settings.compile and not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "c++", "clang++"))):
            raise InputError("--training.compile true needs a C++ compiler (g++ or clang++): install one, or set it to false")
        require_logger(self.settings.log)
        watch_parent()
        if self.first and not self.resume:
            require_empty(self.out)
        return plan(self.settings)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """The body prepares the run: signals end it at once, since there is nothing to save."""
        with Unwind(f"interrupted before training {'went on' if self.resume else 'began'}", self.own_process):
            yield

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """The body reports on a trained network, which is on the disk."""
        with Unwind(f"interrupted while the report was written. Finish it with: nextpixel report {self.out}", self.own_process):
            yield


def fit(
    job: Job,
    found: Plan,
    objective: Objective,
    splits: tuple[Images, Images],
    order: Callable[[Plan], Order],
    draw: DrawGrid | None,
    prepare: Callable[[], None],
    title: str,
) -> Progress | None:
    """Train, from the start or from the run's last checkpoint.

    Args:
        job: the run.
        found: its processes.
        objective: the network and its loss; a run that goes on takes its weights from the checkpoint.
        splits: training and validation images.
        order: of the training batches.
        draw: makes sample grids.
        prepare: writes what a new run has beside its checkpoints; in the first process.
        title: the line that training begins with.

    Returns:
        What has been done; None in all processes but the first.

    Raises:
        InputError: data, settings or folder cannot be used; the loss became infinite; or another process was lost.
        Interrupted: a signal; everything is saved.
    """
    out, settings, console = job.out, job.settings, job.console
    try:
        with lock(job), lost_becomes_an_error(found.world > 1):
            with job.starting():
                state = read_checkpoint(out / LAST) if job.goes_on else None
                if state is not None:
                    check_state(state, objective.network, settings, out)
                fabric = make_fabric(settings, found)
                agreement = Agreement(fabric)
                if agreement.rank:
                    torch.manual_seed(settings.seed + agreement.rank)  # of dropout, where each process draws its own
                loader = Loader(splits[0], order(found), settings.seed, settings.workers, agreement.rank, found.world)
                steps = -(-loader.number(0) // settings.accumulate)
                budget = Budget(settings, steps)
                if job.first:
                    prepare()
                logger = make_logger(settings.log, out, asdict(job.experiment)) if job.first else None
                metrics = Metrics(out / METRICS, columns(objective), logger)
                console.print(title, highlight=False, soft_wrap=True)
                if job.resume and state is None:
                    console.print("the run has no checkpoint yet: it begins anew", highlight=False)
                for line in remarks(settings, budget, state, found):
                    console.print(line, highlight=False, soft_wrap=True)
                progress = RunProgress(console, objective.loss_unit, objective.metric_unit, settings.compile)
                loop = Loop(objective, loader, splits[1], budget, metrics, progress, fabric, agreement, out, draw)
            try:
                loop.run(state)
            finally:
                loader.close()
                metrics.close()
            if dist.is_initialized():
                dist.destroy_process_group()
    except ProcessLost as error:
        raise InputError(f"{error}. Go on with: nextpixel train --out {out} --resume") from error
    return Progress.read(out) if job.first else None


def in_memory_order(network: Network, settings: TrainingSettings, found: Plan) -> Network:
    """The network with its kernels as (B, H, W, C) in memory, if `channels_last` is set."""
    if not settings.channels_last:
        return network
    network = network.to(memory_format=torch.channels_last)
    for parameter in network.parameters() if found.world > 1 else ():
        if parameter.requires_grad:
            parameter.register_hook(_strided_as(parameter))
    return network


def _strided_as(parameter: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Gives a gradient the strides of its parameter, as processes exchange it; a kernel with sides of 1 may have others."""
    shape, stride = parameter.shape, parameter.stride()

    def hook(gradient: Tensor) -> Tensor:
        if gradient.stride() == stride:
            return gradient
        return torch.empty_strided(shape, stride, dtype=gradient.dtype, device=gradient.device).copy_(gradient)

    return hook


def columns(objective: Objective) -> list[str]:
    """Of metrics.csv, beside step and epoch."""
    return ["lr", objective.loss_name, *objective.train_columns, *objective.validation_columns]


def remarks(settings: TrainingSettings, budget: Budget, state: dict[str, Any] | None, found: Plan) -> Iterator[str]:
    """Where a run departs from its settings, one line each."""
    if budget.warmup < settings.warmup:
        yield f"the warm-up takes {budget.warmup} steps instead of {settings.warmup}: a quarter of this run"
    if budget.epochs is not None and settings.eval_every > budget.epochs:
        yield f"validation comes once, at the end: --training.eval_every is {settings.eval_every}, of {budget.epochs} epochs"
    if state is not None and state["processes"] != found.world:
        yield (
            f"this run began on {state['processes']} processes and goes on with {found.world}: a batch has "
            f"{settings.batch_size * found.world} images instead of {state['batch_size']}, so its figures will be others"
        )


@contextmanager
def lock(job: Job) -> Iterator[None]:
    """Hold the run folder in the first process, which must still be new, unless the run goes on.

    Raises:
        InputError: a living process uses it, or it is not empty.
    """
    if not job.first:
        yield
        return
    made = not job.out.exists()
    if job.resume and made:
        raise InputError(f"{job.out} does not exist: expected the folder of a run to go on with")
    job.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(job.out):
        if not job.resume and any(entry.name != LOCK for entry in job.out.iterdir()):
            raise InputError(f"--out {job.out} is not empty: give another folder, or --resume to go on with the run in it")
        yield


def require_empty(out: Path) -> None:
    """Make sure that a new run's folder can be written and overwrites nothing.

    Raises:
        InputError: it cannot, or would.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: expected a folder for the run")
    if out.is_dir() and any(entry.name != LOCK for entry in out.iterdir()):
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


def check_state(state: dict[str, Any], network: nn.Module, settings: TrainingSettings, out: Path) -> None:
    """Make sure that a run can go on from its checkpoint.

    Raises:
        InputError: the run is finished, or the checkpoint is of another architecture or of settings that it cannot serve.
    """
    place, seconds = Place(**state["place"]), (settings.minutes or math.inf) * 60
    over = place.step >= (settings.steps or math.inf) or state["elapsed"] >= seconds
    if settings.steps is None and settings.minutes is None:
        over = place.epoch >= settings.epochs
    if over and place.phase == "train" and place.validated == place.step and (out / "report.md").is_file():
        done = place.words(settings.epochs if settings.steps is None and settings.minutes is None else None)
        raise InputError(
            f"the run is finished ({done}): give more --training.epochs (or steps, or minutes) to go on, or write its report "
            f"again with nextpixel report {out}"
        )
    storable: Storable = network  # type: ignore[assignment]
    load_weights(storable, state["weights"], out / LAST)
    if (state["average"] is None) != (settings.ema == 0):
        had = "no averages" if state["average"] is None else "averages of the weights"
        raise InputError(f"{out / LAST} holds {had}, but --training.ema is {settings.ema}: give the value that the run had")
