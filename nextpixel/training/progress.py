"""What people see of training: a bar with what is left, a line for each validation, and on a log file a line a minute."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nextpixel.training.budget import Budget
from nextpixel.training.checkpoint import Place

QUIET = 60.0  # seconds without a line, where there is no bar


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
