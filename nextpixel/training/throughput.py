"""How fast a run has trained, beside what the machine's matrix products would allow."""

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from nextpixel.machine import count_flops, peak


class Stopwatch(Callback):
    """Seconds spent in training steps (without validation and pictures) and images seen, over all parts of a resumed run.

    Attributes:
        seconds: in the training loop, with those that it waited for data.
        loading: of these, those that it waited for data.
        images: on all devices.
    """

    def __init__(self) -> None:
        self.seconds, self.loading, self.images, self._begun = 0.0, 0.0, 0, 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else float("nan")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self._begun
        self.images += len(batch[0]) * trainer.world_size
        self._begun = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "loading": self.loading, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.loading, self.images = (state_dict[name] for name in ("seconds", "loading", "images"))


class LoadingTime(Profiler):
    """Adds to a stopwatch the seconds that the training loop waits for its next batch: only lightning's loop knows them."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.stopwatch = stopwatch

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._begun = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.stopwatch.loading += time.perf_counter() - self._begun


def describe_speed(loss: Callable[[], Tensor], images: int, stopwatch: Stopwatch, trainer: pl.Trainer) -> str:
    """Images per second, FLOP/s and their share of the machine's peak, and how long data were waited for, in one line.

    Args:
        loss: of so many images, by a model that is not compiled; its gradients are computed to be counted.
        images: how many.
        stopwatch: of the run.
        trainer: tells the precision and the devices.
    """
    flops = count_flops(lambda: loss().backward()) / images * stopwatch.images_per_second
    low = "bf16" in trainer.precision
    best = peak(torch.bfloat16 if low else torch.float32, trainer.strategy.root_device) * trainer.world_size
    return (
        f"{stopwatch.images_per_second:.0f} images per second in the training loop, {flops / 1e9:.4g} GFLOP/s, "
        f"{flops / best:.1%} of the {best / 1e9:.0f} GFLOP/s of {'bf16' if low else 'float32'} matrix products here, "
        f"{stopwatch.loading / stopwatch.seconds if stopwatch.seconds else 0:.1%} of the time waiting for data"
    )
