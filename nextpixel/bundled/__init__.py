"""Trained models in the package, by name: each a run's folder, with facts about it and the SHA-256 of its files.

NAME/  facts.json   config.yaml   marginal.npz   model/{config.json, model.safetensors, README.md}

`tools/models.py` makes them. Wherever a run or a model is expected, a name is taken too; a folder of that name comes first.
"""

import difflib
import fnmatch
import hashlib
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from nextpixel.errors import InputError, Notice, shown

HOME = Path(__file__).parent
FACTS = "facts.json"


@dataclass(frozen=True)
class Facts:
    """What is known of a bundled model.

    Attributes:
        name: of the model.
        draws: what its images show.
        data: what it was trained on.
        licence: of the data.
        architecture: as in `nextpixel.MODELS`.
        parameters: how many.
        figure: the likelihood of the test images, in `unit`.
        standard_error: of that figure.
        unit: "nats" per image, or "bits/dim".
        images: of the test set.
        steps, of: the steps of the weights, and of the whole training; fewer where it was stopped.
        minutes: of training.
        recipe, command: how to make it again.
        commit, machine, seed, date: of the training.
        not_for: what it must not be used for.
        files: SHA-256 of each file.
    """

    name: str
    draws: str
    data: str
    licence: str
    architecture: str
    parameters: int
    figure: float
    standard_error: float
    unit: str
    images: int
    steps: int
    of: int
    minutes: float
    recipe: str
    command: str
    commit: str
    machine: str
    seed: int
    date: str
    not_for: str
    files: dict[str, str] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum((HOME / self.name / file).stat().st_size for file in self.files)


def list_models(pattern: str = "*") -> list[str]:
    """The names of the bundled models that fit a pattern.

    Example:
        >>> list_models("digits*")
        ['digits', 'digits-class']
    """
    names = sorted(path.parent.name for path in HOME.glob(f"*/{FACTS}"))
    return fnmatch.filter(names, pattern)


def facts(name: str) -> Facts:
    """The facts of a bundled model.

    Raises:
        InputError: no model of that name; the message has the nearest.

    Example:
        >>> facts("digits").architecture
        'gated-pixelcnn'
        >>> facts("digit")
        Traceback (most recent call last):
        nextpixel.errors.InputError: no bundled model is called digit (nearest: digits, digits-class; all: nextpixel models)
    """
    if name not in list_models():
        raise InputError(f"no bundled model is called {shown(name)}{nearest(name)}")
    return Facts(name=name, **json.loads((HOME / name / FACTS).read_text(encoding="utf-8")))


def find(run: str | Path) -> Path | None:
    """The folder of the bundled model of this name, whose files are checked; None where there is a folder or no such model.

    Raises:
        InputError: a file of it is missing or has been changed.
    """
    name = str(run)
    if name not in list_models():
        return None
    if os.path.lexists(name):
        warnings.warn(f"{name} is the folder here, not the bundled model of that name", Notice, stacklevel=2)
        return None
    folder = HOME / name
    for file, expected in facts(name).files.items():
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"cannot read {folder / file} of the bundled model {name}: {error.strerror}") from error
        if found != expected:
            raise InputError(f"{folder / file} has been changed (SHA-256 is another): install nextpixel again")
    return folder


def located(run: str) -> str:
    """A run as verbs take it: the folder of the bundled model of that name, or what was given."""
    folder = find(run)
    if folder is None and run in list_models():
        return os.path.join(".", run)  # the folder here, and no name any more
    return run if folder is None else str(folder)


def nearest(name: str) -> str:
    """The bundled models whose names are near, for messages."""
    near = difflib.get_close_matches(str(name), list_models(), 3, 0.5)
    return f" (nearest: {', '.join(near)}; all: nextpixel models)" if near else " (nextpixel models lists all)"
