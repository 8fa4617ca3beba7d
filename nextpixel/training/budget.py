"""How long a run is, in epochs, steps or minutes, and the learning rate on the way."""

import math
import time
from dataclasses import dataclass

from nextpixel.training.settings import TrainingSettings


@dataclass
class Budget:
    """The end of a run: so many steps, or so many minutes, whichever comes first.

    Of a run by minutes the learning rate follows the clock, so that a schedule ends where the run ends. Its figures then depend
    on the machine's speed: two runs differ.

    Args:
        settings: of the run.
        per_epoch: optimiser steps in a pass over the training images.

    Attributes:
        steps: of the run, or None if only the clock ends it.
        seconds: of the run, or None.
        epochs: of the run where they give its length, for messages; else None.
        spent: seconds that earlier parts of a resumed run have taken.

    Example:
        >>> budget = Budget(TrainingSettings(epochs=3, schedule="constant", warmup=0), per_epoch=44)
        >>> budget.steps, budget.left(step=131), budget.is_over(step=132)
        (132, 1, True)
    """

    settings: TrainingSettings
    per_epoch: int

    def __post_init__(self) -> None:
        by_epochs = self.settings.steps is None and self.settings.minutes is None
        self.epochs = self.settings.epochs if by_epochs else None
        self.steps = self.settings.epochs * self.per_epoch if by_epochs else self.settings.steps
        self.seconds = None if self.settings.minutes is None else self.settings.minutes * 60
        self.spent, self._begun = 0.0, time.monotonic()
        self._fit_warmup()

    def go_on(self, step: int, epoch: int, batches: int, spent: float) -> None:
        """Start the clock of a run that goes on: after so many steps, epochs and further batches, and seconds.

        Where the settings are those that the run began with, its steps stay as they are; else the rest is counted anew.
        """
        self.start(spent)
        if self.epochs is not None:
            left = (self.epochs - epoch) * self.per_epoch - -(-batches // self.settings.accumulate)
            self.steps = step + max(0, left)
            self._fit_warmup()

    def _fit_warmup(self) -> None:
        # A warm-up that fills a short run would leave no training at the full rate.
        self.warmup = self.settings.warmup if self.steps is None else min(self.settings.warmup, self.steps // 4)

    def start(self, spent: float = 0.0) -> None:
        """Start the clock, after so many seconds in earlier parts of the run."""
        self.spent, self._begun = spent, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, in all its parts."""
        return self.spent + time.monotonic() - self._begun

    def is_over(self, step: int) -> bool:
        """Whether the run ends after so many steps, now."""
        return (self.steps is not None and step >= self.steps) or (self.seconds is not None and self.elapsed >= self.seconds)

    def left(self, step: int) -> int | None:
        """Steps that are left, if steps give the run's length."""
        return None if self.steps is None else max(0, self.steps - step)

    def seconds_left(self, step: int, done: int) -> float | None:
        """What is left by the clock, or by the speed of this part of the run: `done` steps, with validations and pictures."""
        by_clock = None if self.seconds is None else max(0.0, self.seconds - self.elapsed)
        if self.steps is None or done == 0:
            return by_clock
        by_steps = (self.elapsed - self.spent) / done * (self.steps - step)
        return by_steps if by_clock is None else min(by_steps, by_clock)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        done = None if self.seconds is None else min(1.0, self.elapsed / self.seconds)
        return self.settings.lr * learning_rate_factor(self.settings, step, self.steps, self.warmup, done)


def learning_rate_factor(
    settings: TrainingSettings, step: int, total: int | None, warmup: int | None = None, done: float | None = None
) -> float:
    """What `lr` is multiplied with at a step: the linear warm-up times the schedule.

    Args:
        settings: with the schedule.
        step: from 0.
        total: steps of the run; None where only its clock gives its length.
        warmup: steps of the warm-up, if not those of the settings.
        done: share of the run by its clock, where it has one.

    Example:
        >>> settings = TrainingSettings(warmup=10, schedule="cosine")
        >>> [round(learning_rate_factor(settings, step, total=110), 3) for step in (0, 9, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
    """
    steps = settings.warmup if warmup is None else warmup
    rise = min(1.0, (step + 1) / steps) if steps else 1.0
    if done is not None:
        rise = max(rise, min(1.0, 4 * done))  # a quarter of the run at most
    if settings.schedule == "exponential":
        return rise * settings.lr_decay**step
    if settings.schedule == "cosine":
        share = 0.0 if total is None else max(0, step - steps) / max(1, total - steps)
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(share, done or 0.0))))
    return rise
