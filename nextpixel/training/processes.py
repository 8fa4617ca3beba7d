"""Devices and processes: Lightning Fabric computes on them; here they are started, agree with one another, and end together."""

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.signals import SIGNALS, leave

PATIENCE = timedelta(days=7)  # other processes may wait while the first one draws or writes; a lost one is noticed otherwise
LOST = "another process of this run has ended: training stopped, and the last checkpoint stands"
STOPPED = "interrupted in another process of this run: training stopped, and the last checkpoint stands"


class ProcessLost(RuntimeError):
    """Another process of the run has ended without a message."""


@dataclass(frozen=True)
class Plan:
    """The processes of a run.

    Args:
        accelerator: "cuda" or "cpu".
        devices: processes on each machine, each with a device of its own.
        nodes: machines.
        started: whether a launcher (torchrun, SLURM) starts the processes.
    """

    accelerator: str
    devices: int
    nodes: int
    started: bool

    @property
    def world(self) -> int:
        return self.devices * self.nodes


def plan(settings: TrainingSettings) -> Plan:
    """Where a run trains, by its settings and by what has started this process.

    Under torchrun and SLURM the number of processes is theirs. Elsewhere `devices` processes train: by default all GPUs of this
    machine, or one process on its processor.

    Raises:
        InputError: more devices than there are, or other counts than those that were started.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    asked = None if settings.devices == "auto" else int(settings.devices)
    launched = _launched()
    if launched is not None:
        who, local, world = launched
        if asked is not None and asked != local:
            raise InputError(f"--training.devices is {asked}, but {who} has started {local} processes on this machine")
        nodes = world // local
        if settings.nodes not in (1, nodes):
            raise InputError(f"--training.nodes is {settings.nodes}, but {who} has started processes on {nodes}")
        found = Plan(accelerator, local, nodes, started=True)
    else:
        devices = asked or (torch.cuda.device_count() if accelerator == "cuda" else 1)
        found = Plan(accelerator, devices, settings.nodes, started="LOCAL_RANK" in os.environ)
    if accelerator == "cuda" and found.devices > torch.cuda.device_count():
        raise InputError(f"--training.devices is {found.devices}, but this machine has {torch.cuda.device_count()} GPUs")
    return found


def _launched() -> tuple[str, int, int] | None:
    """Who has started this process as one of several: (name, processes on this machine, in all)."""
    if dist.is_available() and dist.is_torchelastic_launched():
        return "torchrun", int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if SLURMEnvironment.detect():
        world, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", 1))
        return "SLURM", world // nodes, world
    return None


def precision(settings: TrainingSettings) -> str:
    """Fabric's name of the precision: bf16 under "auto" where the device's matrix products are faster in it."""
    if settings.precision == "auto":
        if torch.cuda.is_available():
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        # Only private functions report the processor's features; without AMX or AVX512-BF16, bf16 is emulated and slower.
        fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        return "bf16-mixed" if fast else "32-true"
    return "bf16-mixed" if settings.precision == "bf16" else "32-true"


def is_first() -> bool:
    """Whether this is the first process of its run, which alone writes and prints."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def make_fabric(settings: TrainingSettings, found: Plan) -> Fabric:
    """Start the run's further processes, unless a launcher has, and connect with them."""
    if found.world == 1:
        return Fabric(accelerator=found.accelerator, devices=1, precision=precision(settings))
    if not found.started:
        _start_others(found)
    elif "NEXTPIXEL_READY" in os.environ:
        with open(int(os.environ["NEXTPIXEL_READY"]), "wb", buffering=0) as ready:
            ready.write(b"1")
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # of how it connects
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(timeout=PATIENCE, process_group_backend="nccl" if found.accelerator == "cuda" else "gloo")
    fabric = Fabric(
        accelerator=found.accelerator,
        devices=found.devices,
        num_nodes=found.nodes,
        strategy=strategy,
        precision=precision(settings),
    )
    with lost_becomes_an_error(True):
        fabric.launch()
    return fabric


def _start_others(found: Plan) -> None:
    """Start this command once more for each further device, and watch: none outlives the others."""
    environment = LightningEnvironment()
    os.environ.setdefault("MASTER_ADDR", environment.main_address)
    os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    os.environ.setdefault("NODE_RANK", "0")
    os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = "0", str(found.world)
    spec = sys.modules["__main__"].__spec__
    command = [sys.executable, os.path.abspath(sys.argv[0])] if spec is None else [sys.executable, "-m", spec.name]
    command += sys.argv[1:]
    ready, reports = os.pipe()
    own = {"NEXTPIXEL_PARENT": str(os.getpid()), "NEXTPIXEL_READY": str(reports)}
    others = [
        subprocess.Popen(command, env={**os.environ, **own, "LOCAL_RANK": str(rank)}, pass_fds=(reports,))
        for rank in range(1, found.devices)
    ]
    threading.Thread(target=_watch_children, args=(others,), daemon=True, name="watch-children").start()
    os.close(reports)
    # Connecting blocks, and Python handles no signal in a call that blocks: it begins when all processes have come so far.
    for _ in others:
        while not select.select([ready], [], [], 0.1)[0]:
            pass
        if not os.read(ready, 1):
            time.sleep(60)  # all that were left have ended: so does this one, by `_watch_children`
    os.close(ready)


def watch_parent() -> None:
    """In a process that another has started: end when that one is gone."""
    parent = os.environ.get("NEXTPIXEL_PARENT")
    if parent is not None:
        threading.Thread(target=_watch_parent, args=(int(parent),), daemon=True, name="watch-parent").start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(2)  # a process that has noticed by itself prints its line
    if os.environ["LOCAL_RANK"] == "1":
        leave(LOST, 1)
    os._exit(1)


def _watch_children(others: list[subprocess.Popen]) -> None:
    while True:
        codes = [process.poll() for process in others]
        if any(codes):
            break
        if all(code == 0 for code in codes):
            return
        time.sleep(0.5)
    time.sleep(2)
    for process in others:
        process.kill()
    # A signal that only one process has received, before they could agree on it.
    signums = [code - 128 if code > 0 else -code for code in codes if code]
    stopped = [signum for signum in signums if signum in SIGNALS]
    leave(STOPPED if stopped else LOST, 128 + stopped[0] if stopped else 1)


class Agreement:
    """What the processes of a run exchange beside gradients; a single process exchanges nothing.

    Args:
        fabric: connects them.

    Attributes:
        rank, world: which process this is, and of how many.
        first_pid: the process of rank 0, where this is another one on the same machine.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.world = fabric.global_rank, fabric.world_size
        # Numbers of the processor, which must not wait for a GPU.
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.world > 1 else None
        host, pid = self.all((socket.gethostname(), os.getpid()))[0]
        self.first_pid = pid if self.rank and host == socket.gethostname() else None  # the first process, where it is reachable

    def most(self, value: int) -> int:
        """The largest value of all processes."""
        return int(self._reduce(torch.tensor(value), dist.ReduceOp.MAX)) if self.world > 1 else value

    def sums(self, values: Tensor) -> Tensor:
        """The sums over all processes, of float64."""
        return self._reduce(values.double().cpu(), dist.ReduceOp.SUM) if self.world > 1 else values.double().cpu()

    def all(self, value: Any) -> list[Any]:
        """What each process has, in order."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self._group)
        return found

    def wait_for_first(self) -> None:
        """Until all are here; meanwhile signals are handled, which they are not within a call that blocks."""
        if self.world > 1:
            work = dist.barrier(group=self._group, async_op=True)
            while not work.is_completed():
                time.sleep(0.02)
            work.wait()

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        dist.all_reduce(tensor, operation, group=self._group)
        return tensor


@contextmanager
def lost_becomes_an_error(several: bool) -> Iterator[None]:
    """Errors of a connection that has broken become `ProcessLost`.

    Raises:
        ProcessLost: in the body, the connection with another process has broken.
    """
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        broken = ("gloo", "nccl", "connection", "store", "socket", "recv", "broken pipe")
        if several and any(word in str(error).lower() for word in broken):
            raise ProcessLost(LOST) from error
        raise
