"""What the verbs take from a run folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nextpixel.condition import Labels
from nextpixel.data.arrays import save_symbols
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel
from nextpixel.models.storage import load
from nextpixel.pictures import save_grid
from nextpixel.scoring.baselines import PixelMarginal
from nextpixel.training.experiment import Experiment, read_experiment


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
        if cond is not None and isinstance(model.condition, Labels):
            each = torch.as_tensor(cond).reshape(-1)
            labels = each.repeat_interleave(len(x) // len(each)).cpu().numpy()
        save_symbols(x.cpu().numpy(), out, model.levels, model.codes, labels)
