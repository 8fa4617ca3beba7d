"""Where the figures of a run go: metrics.csv always, and a logger by choice.

What people see of training: a bar with what is left, a line for each validation, and on a log file a line a minute.
"""

import csv
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.training.checkpoint import Place
from nextpixel.training.optimisation import Budget

METRICS = "metrics.csv"
LOGGERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # and the package that each needs


QUIET = 60.0  # seconds without a line, where there is no bar


class Logger(Protocol):
    """What receives figures beside metrics.csv."""

    def log(self, values: dict[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Metrics:
    """The figures of a run as a table: a row of step, epoch and some of the columns.

    The rows are kept as text, which a checkpoint stores: a run that goes on from it begins with the rows that were there, and
    not with those of steps that it takes again.

    Args:
        path: of metrics.csv.
        columns: beside step and epoch.
        logger: gets the same.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> metrics = Metrics(path, ["loss"])
        >>> metrics.begin("")
        >>> metrics.log({"loss": 0.5}, step=9, epoch=0)
        >>> path.read_text().splitlines()
        ['step,epoch,loss', '9,0,0.5']
    """

    def __init__(self, path: Path, columns: list[str], logger: Logger | None = None) -> None:
        self.path, self.columns, self.logger = path, ["step", "epoch", *columns], logger
        self.text = ""

    def begin(self, text: str) -> None:
        """Start with these rows, or with none.

        Raises:
            InputError: the file cannot be written.
        """
        self.text = text or self._line(self.columns)
        with write_aside(self.path) as aside:
            aside.write_text(self.text, encoding="utf-8", newline="")

    def log(self, values: dict[str, float], step: int, epoch: int) -> None:
        """Add a row.

        Raises:
            InputError: the file cannot be written.
        """
        row = {"step": step, "epoch": epoch, **values}
        line = self._line([row.get(name, "") for name in self.columns])
        self.text += line
        try:
            # One call of the system for one row: a process that is killed leaves whole rows.
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self.logger is not None:
            self.logger.log(values, step)

    def close(self) -> None:
        """Let the logger finish."""
        if self.logger is not None:
            self.logger.close()

    @staticmethod
    def _line(values: list[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


def require_logger(name: str) -> None:
    """Make sure that a logger is installed.

    Raises:
        InputError: it is not; the message names the command that installs it.

    Example:
        >>> require_logger("none")
    """
    package = LOGGERS.get(name)
    if package is not None and find_spec(package) is None:
        raise InputError(f'--training.log {name} needs the package {package}: pip install "nextpixel[{name}]"')


def make_logger(name: str, out: Path, config: dict[str, Any]) -> Logger | None:
    """The logger of a run: "none", "tensorboard" (RUN/tensorboard) or "wandb" (Weights & Biases, one run for each run folder)."""
    if name == "tensorboard":
        return TensorBoard(out / "tensorboard")
    return WandB(out, config) if name == "wandb" else None


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run at Weights & Biases, or offline, by its own settings (WANDB_MODE, WANDB_PROJECT, ...)."""

    def __init__(self, out: Path, config: dict[str, Any]) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "nextpixel")
        self._run = wandb.init(project=project, name=out.name, dir=str(out), config=config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class RunProgress:
    """The progress of a run on a console.

    Args:
        console: a terminal gets a bar, a file lines; a quiet one nothing.
        loss_unit, metric_unit: of the training loss and of the validation figure, in words.
        compiles: whether the first step compiles the network.
    """

    def __init__(self, console: Console, loss_unit: str, metric_unit: str, compiles: bool = False) -> None:
        self.console, self.loss_unit, self.metric_unit, self.compiles = console, loss_unit, metric_unit, compiles
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[figures]}"),
        )
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task: TaskID | None = None
        self._spoken = time.monotonic()

    @contextmanager
    def training(self, place: Place, budget: Budget) -> Iterator[None]:
        """Show the bar in the body."""
        begin = "compiling the training step (minutes)" if self.compiles else "training"
        self.task = self.bar.add_task(begin, total=budget.steps or 1, completed=place.step, count="", left="", figures="")
        if self.compiles and not self.console.is_terminal:
            self._print("compiling the training step: this takes minutes")
        try:
            with self.bar:
                yield
        finally:
            self.bar.remove_task(self.task)
            self.task = None

    def step(self, place: Place, budget: Budget, done: int, loss: float) -> None:
        """A step is done; `done` of them in this part of the run."""
        self.compiles = False
        seconds = budget.seconds_left(place.step, done)
        left = "" if seconds is None else f"{_clock(seconds)} left"
        figures = f"{self._where(place, budget)}, {loss:.3f} {self.loss_unit}"
        if self.task is not None and self.console.is_terminal:
            total, completed = budget.steps or 1, place.step
            if budget.seconds is not None and (budget.steps is None or budget.elapsed / budget.seconds > completed / total):
                total, completed = round(budget.seconds), round(budget.elapsed)
            count = f"{place.step}" if budget.steps is None else f"{place.step}/{budget.steps}"
            self.bar.update(
                self.task, description="training", total=total, completed=completed, count=count, left=left, figures=figures
            )
        elif time.monotonic() - self._spoken > QUIET:
            self._print(f"step {place.step}{'' if budget.steps is None else f' of {budget.steps}'}, {figures}, {left}")

    def phase(self, name: str, place: Place, budget: Budget) -> None:
        """What the run does now, if it does not train."""
        if self.task is not None:
            begin = "compiling the training step (minutes)" if self.compiles else "training"
            self.bar.update(self.task, description=name or begin)

    def part(self, name: str, done: int, total: int) -> None:
        """How far a phase is."""
        if self.task is not None:
            self.bar.update(self.task, description=f"{name} {done}/{total}")
        if time.monotonic() - self._spoken > QUIET and not self.console.is_terminal:
            self._print(f"{name}: {done} of {total}")

    def validated(self, place: Place, budget: Budget, train: float, value: float) -> None:
        """The line of a validation."""
        self._print(
            f"{self._where(place, budget):20}  step {place.step}   train {train:.4f} {self.loss_unit}   "
            f"validation {value:.4f} {self.metric_unit}"
        )

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)
        self._spoken = time.monotonic()

    @staticmethod
    def _where(place: Place, budget: Budget) -> str:
        epoch = place.epoch + (place.batch > 0)
        return f"epoch {epoch}" if budget.epochs is None else f"epoch {epoch} of {budget.epochs}"


def _clock(seconds: float) -> str:
    """Example:
    >>> _clock(75), _clock(7380)
    ('1:15', '2:03:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stopwatch:
    """Seconds spent in training steps (without validation and pictures) and images seen, over all parts of a resumed run.

    Attributes:
        seconds: in the training loop, with those that it waited for data.
        loading: of these, those that it waited for data.
        images: on all devices.
    """

    def __init__(self) -> None:
        self.seconds, self.loading, self.images = 0.0, 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the body as waiting for data."""
        begun = time.perf_counter()
        yield
        waited = time.perf_counter() - begun
        self.seconds += waited
        self.loading += waited

    @contextmanager
    def training(self, images: int = 0) -> Iterator[None]:
        """Count the body as training, of so many images on all devices."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.images += images

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "loading": self.loading, "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self.loading, self.images = (state[name] for name in ("seconds", "loading", "images"))
