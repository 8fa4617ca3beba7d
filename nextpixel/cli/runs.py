"""What the verbs take from a run folder.

The option --device, which every verb takes that computes.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser

from nextpixel.data.arrays import save_symbols
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel
from nextpixel.models.storage import load
from nextpixel.pictures.grid import save_grid
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.training.experiment import Experiment, read_experiment

if TYPE_CHECKING:
    import torch


@dataclass
class Run:
    """A run folder and its trained model."""

    folder: Path
    model: AutoregressiveModel

    @cached_property
    def experiment(self) -> Experiment:
        return read_experiment(self.folder / "config.yaml")

    @cached_property
    def marginal(self) -> PixelMarginal:
        return PixelMarginal.load(self.folder / "marginal.npz", self.model.shape, self.model.levels)


def open_run(folder: str) -> Run:
    """Load a run, finished or not.

    Raises:
        InputError: no run there, or one that has no model yet.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} is no run: expected a folder with config.yaml, as nextpixel train makes it")
    return Run(path, load(path))


def write_images(x: torch.Tensor, out: Path, model: AutoregressiveModel, cond: Any, columns: int | None = None) -> None:
    """Write images (N, C, H, W) as a .png grid, or their integers to .npy or, with the labels of a class-conditional model, .npz.

    `cond` is one for all images, or B of which each is for N / B images that follow one another.

    Raises:
        InputError: the file cannot be written.
    """
    if out.suffix == ".png":
        save_grid(x, model.levels, out, columns, codes=model.codes)
    else:
        labels = None
        if cond is not None and model.condition.source == "label":
            each = torch.as_tensor(cond).reshape(-1)
            labels = each.repeat_interleave(len(x) // len(each)).cpu().numpy()
        save_symbols(x.cpu().numpy(), out, model.levels, model.codes, labels)


DEVICE = "where to compute: auto (a GPU where there is one), cpu, cuda, or cuda:1 for the second GPU"


def add_device(parser: ArgumentParser) -> None:
    """The option, which `find_device` reads."""
    parser.add_argument("--device", default="auto", help=DEVICE)


def find_device(text: str) -> "torch.device":
    """The device of this name; of "auto" the first GPU, and the processor where there is none.

    Raises:
        InputError: an unknown device, or one that this machine does not have.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
        >>> find_device("tpu")
        Traceback (most recent call last):
        nextpixel.errors.InputError: --device tpu: expected auto, cpu, cuda or, to name one of several GPUs, cuda:0, cuda:1, ...
    """
    import torch

    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", text, re.ASCII)
    if match is None:
        raise InputError(f"--device {text}: expected auto, cpu, cuda or, to name one of several GPUs, cuda:0, cuda:1, ...")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        text = "cuda" if gpus else "cpu"
    if text.startswith("cuda") and int(match[2] or 0) >= gpus:
        found = "no GPU" if not gpus else "one GPU, cuda:0" if gpus == 1 else f"{gpus} GPUs, cuda:0 to cuda:{gpus - 1}"
        raise InputError(f"--device {text}: torch finds {found} on this machine")
    return torch.device(text)
