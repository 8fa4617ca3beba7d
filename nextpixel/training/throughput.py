"""How fast a run has trained, beside what the machine's matrix products would allow."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nextpixel.machine import count_flops, peak
from nextpixel.training.checkpoint import Progress


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


def describe_speed(loss: Callable[[], Tensor], images: int, done: Progress) -> str:
    """Images per second, FLOP/s and their share of the machine's peak, and how long data were waited for, in one line.

    Args:
        loss: of so many images, by a model that is not compiled; its gradients are computed to be counted.
        images: how many.
        done: what the run has done, and how.
    """
    rate = done.images / done.seconds if done.seconds else float("nan")
    flops = count_flops(lambda: loss().backward()) / images * rate
    low = "bf16" in done.precision
    best = peak(torch.bfloat16 if low else torch.float32, done.device) * done.processes
    return (
        f"{rate:.0f} images per second in the training loop, {flops / 1e9:.4g} GFLOP/s, "
        f"{flops / best:.1%} of the {best / 1e9:.0f} GFLOP/s of {'bf16' if low else 'float32'} matrix products here, "
        f"{done.loading / done.seconds if done.seconds else 0:.1%} of the time waiting for data"
    )
