"""What verbs take from a run folder: its model, and a condition for it from the options of a verb."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextpixel.bundled import nearest
from nextpixel.conditions import Condition
from nextpixel.conditions.base import Source
from nextpixel.data.arrays import save_symbols
from nextpixel.data.classes import class_number
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError, Notice
from nextpixel.identities.network import INSIDE, EmbeddingNetwork, kept_embedding
from nextpixel.models import AutoregressiveModel
from nextpixel.models.names import captions, classes_of
from nextpixel.models.storage import load
from nextpixel.pictures.grid import save_grid
from nextpixel.pictures.read import picture_symbols, read_picture
from nextpixel.recipes import Experiment, read_experiment
from nextpixel.scoring.baselines import PixelMarginal

LABEL, LIKE = "--label", "--like"


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
    if not path.exists():
        raise InputError(f"{folder} does not exist: expected a run's folder or a bundled model{nearest(folder)}")
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
        save_grid(x, model.levels, out, columns, codes=model.codes, captions=captions(model, cond, len(x)))
    else:
        labels = None
        if cond is not None and model.condition.source == "label":
            each = torch.as_tensor(cond).reshape(-1)
            labels = each.repeat_interleave(len(x) // len(each)).cpu().numpy()
        save_symbols(x.cpu().numpy(), out, model.levels, model.codes, labels, model.class_names)


def notice_guidance(guidance: float, model: AutoregressiveModel, run: str) -> None:
    """One line where guidance takes an unconditional distribution that was never trained, as the run's config tells."""
    config = Path(run) / "config.yaml"
    if guidance == 1 or not abs(guidance) <= 1e6 or model.condition is None or not config.is_file():
        return
    if getattr(read_experiment(config).training, "condition_dropout", 1) == 0:
        what = f"--guidance {guidance:g} needs the unconditional distribution, which this run did not train (condition dropout 0)"
        warnings.warn(f"{what}: the result means little; train with --training.condition_dropout 0.1", Notice, stacklevel=2)


def label_number(text: str, model: AutoregressiveModel, option: str = "--label") -> int:
    """The number of the class that --label gives by its name or number.

    Raises:
        InputError: there is no such class; the message names the nearest.
    """
    return class_number(text, model.class_names, classes_of(model) or 0, option)


class RunConditions:
    """Makes a `cond` of a label and a picture, for the model of a run, part by part as each declares its `source`.

    "label" takes the label, "picture" the picture, and "embedding" what the network in RUN/embedding makes of the picture.
    Nothing else can be given on the command line; what is known of an image is no part of it, and `complete` gives it.

    Args:
        model: the run's model.
        run: its folder as it was named, whose config.yaml has the preparation of its pictures; a model's folder has none.
    """

    def __init__(self, model: AutoregressiveModel, run: str) -> None:
        self.model, self.run = model, run
        self.parts = [] if model.condition is None else [part for part in model.condition.each() if part.asks]

    def cond(
        self,
        label: str | int | Tensor | None,
        picture: str | None,
        of_label: str = LABEL,
        of_picture: str = LIKE,
        needed: bool = True,
    ) -> Any:
        """The `cond`; None if nothing was given and the model takes none or nothing but labels, or none is needed.

        Args:
            label: one for all images, as a number or a name, or theirs.
            picture: a file.
            of_label, of_picture: the options that gave these, for messages.
            needed: whether the model must have a condition.

        Raises:
            InputError: the model does not depend on what was given, or on more than that; or the picture cannot be used.
        """
        if label is not None and not self.takes("label"):
            raise InputError(f"{of_label} {label}: the model in {self.run} is not class-conditional")
        if picture is not None and not self.takes("picture", "embedding"):
            raise InputError(f"{of_picture} {picture}: the model in {self.run} is not conditioned on pictures")
        if isinstance(label, str):
            label = label_number(label, self.model, of_label)
        nothing = label is None and picture is None
        if nothing and (not needed or all(part.source == "label" for part in self.parts)):
            return None
        given = {LABEL: label, LIKE: picture}
        wanted = dict.fromkeys(self._wants(part) for part in self.parts)  # in order, each once
        missing = [what for what in wanted if given.get(what) is None]
        if missing:
            raise InputError(f"the model in {self.run} {'needs' if nothing else 'also needs'} {' and '.join(missing)}")
        return self.model.condition.build(lambda part: self._of(part, label, picture, of_picture))

    def takes(self, *sources: Source) -> bool:
        """Whether the condition, or a part of it, is made of one of these."""
        return any(part.source in sources for part in self.parts)

    def _wants(self, part: Condition) -> str:
        """What must be given for a part, in words."""
        if part.source == "embedding":
            self._require_network(part)
        options = {"label": LABEL, "picture": LIKE, "embedding": LIKE}
        return options.get(part.source, f"a {part.name}, which only Python can give")

    def _of(self, part: Condition, label: int | Tensor | None, picture: str | None, of_picture: str) -> Any:
        if part.source == "label":
            return label
        if part.source == "embedding":
            return self.network.embed(self._symbols(picture, of_picture, self.network.levels)[None])[0]
        return self._symbols(picture, of_picture, self.model.levels)

    def _symbols(self, picture: str, option: str, levels: int) -> Tensor:
        """A picture, prepared as the run's own are, at these levels: (C, H, W) of the model's images."""
        if self.model.codes:
            raise InputError(f"{option} {picture}: the model in {self.run} draws codes, which no picture file holds")
        pixels = read_picture(picture, grayscale=self.data.grayscale, crop=self.data.crop, size=self.data.size)
        x = picture_symbols(pixels, levels, self.model.shape[0], picture)
        if x.shape != self.model.shape:
            mine, theirs = ("{} x {}".format(*shape[:0:-1]) for shape in (x.shape, self.model.shape))
            lacks = "" if self.data.size else f", and {self.run} has no --data.size that would resize it"
            raise InputError(f"{option} {picture} is {mine} pixels wide and high, but the model is for {theirs}{lacks}")
        return x

    @cached_property
    def data(self) -> DataSettings:
        """How the run's pictures were prepared: not at all, where there is no config.yaml."""
        config = Path(self.run) / "config.yaml"
        return read_experiment(config).data if config.is_file() else DataSettings()

    @cached_property
    def network(self) -> EmbeddingNetwork:
        return kept_embedding(self.run)

    def _require_network(self, part: Condition) -> None:
        """Raise InputError unless the run keeps a network that makes such vectors."""
        if self.network.dim != part.features:
            kept = f"the network in {Path(self.run) / INSIDE} makes vectors of {self.network.dim} numbers"
            raise InputError(f"{kept}, but the model in {self.run} was trained on those of another, of {part.features} numbers")
