"""The machine that something ran on: what it is, how fast it multiplies, and how much arithmetic a computation needs."""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import nextpixel

# Rows and columns of the products that `peak` times: a GPU is not filled by what fills a processor.
SIDES = {"cpu": 2048, "cuda": 8192}


def machine_line() -> str:
    """Processor, threads and versions, in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, nextpixel {nextpixel.__version__}"
    return f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}; {versions}"


def peak(dtype: torch.dtype, device: str | torch.device = "cpu", n: int | None = None, rounds: int = 9) -> float:
    """FLOP/s of a square matrix product: the median of some products of n x n numbers.

    What a network can reach at best on this machine as it is now; processors do not publish it, and neighbours change it.

    Args:
        dtype: of the factors.
        device: where.
        n: rows and columns; by default 2048, and 8192 on a GPU, which smaller products do not fill.
        rounds: products that are timed.

    Example:
        >>> peak(torch.float32, n=64) > 1e6
        True
    """
    n = n or SIDES.get(torch.device(device).type, SIDES["cuda"])
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = a @ b  # also warms up
    seconds = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(rounds)]
    return 2 * n**3 / statistics.median(seconds)


def timed(function: Callable[[], Any], device: str | torch.device = "cpu") -> float:
    """Seconds that a call takes, including the work that it leaves to a GPU."""
    synchronise(device)
    begin = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - begin


def synchronise(device: str | torch.device) -> None:
    """Wait for a GPU; a processor has nothing to wait for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(function: Callable[[], Any]) -> int:
    """FLOPs of the matrix products and convolutions of a call, forwards and backwards, as torch counts them.

    Example:
        >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
        60
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
