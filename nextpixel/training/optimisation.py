r"""How long a run is, in epochs, steps or minutes, and the learning rate on the way.

Averaged weights.
"""

import copy
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nextpixel.recipes.settings import TrainingSettings


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


class Average:
    r"""Averaged weights :math:`\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta` with :math:`d_n = \min(d, (1+n)/(10+n))`.

    A plain average lags by 1/(1-d) steps, which ruins short runs: the warm-up of d lets it start at once. The average is a
    network of its own, in eval mode: validation and drawing read it, and training never touches it but in `update`.

    Args:
        network: whose weights are averaged.
        decay: d.

    Attributes:
        network: with the averaged weights.
        updates: n.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> average = Average(network, decay=0.5)
        >>> average.update(network)                       # the first update takes the weights as they are
        >>> with torch.no_grad():
        ...     _ = network.weight.add_(1)
        >>> average.update(network)                       # (1 + 1) / (10 + 1) is less than d
        >>> round((network.weight - average.network.weight).item(), 3)
        0.182
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = copy.deepcopy(network).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take up the weights of one more step; buffers are copied."""
        averages, weights = list(self.network.parameters()), list(network.parameters())
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.network.load_state_dict(state["weights"])
