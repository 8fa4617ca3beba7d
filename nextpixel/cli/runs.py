"""What the verbs take from a run folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel
from nextpixel.models.storage import load
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
        return PixelMarginal.load(self.folder / "marginal.npz")


def open_run(folder: str) -> Run:
    """Load a finished run.

    Raises:
        InputError: no run there, or one that has not finished.
    """
    path = Path(folder)
    if (path / "config.yaml").is_file() and not (path / "model").is_dir():
        raise InputError(f"{path} has no model yet: finish it with nextpixel train --out {path} --resume")
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} is no run: expected a folder with config.yaml, as nextpixel train makes it")
    return Run(path, load(path / "model"))
