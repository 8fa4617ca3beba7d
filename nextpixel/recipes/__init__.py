"""Recipes and experiments: a model, its data and its training settings, as config.yaml and the YAML files here hold them.

What differs between kinds of runs is registered by name in `KINDS`, and imported when it is first used.
"""

import difflib
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.recipes.settings import TrainingSettings


@dataclass(frozen=True)
class Kind:
    """A kind of run. Entries are places of objects, "module:name": reading a config imports none of them but the settings.

    Args:
        settings: the class of its training settings.
        networks: what it trains, a dictionary from names to classes, whose constructors' arguments are options of `train`.
        train: (experiment, out, resume, console, report, own_process) -> result, trains and reports.
        report: (out, console, report, own_process) -> result, reports on a run that has been trained.
        evaluate: (args, console, measured) -> None, the figures of a split for `nextpixel evaluate` and its --json.
        conditioned: whether `--model.condition` is an option of its networks.
    """

    settings: str
    networks: str
    train: str
    report: str
    evaluate: str
    conditioned: bool = False

    def load(self, entry: str) -> Any:
        """The object of an entry.

        Example:
            >>> kind_of("embedding").load("settings").__name__, kind_of("pixelcnn").load("settings").__name__
            ('TripletSettings', 'TrainingSettings')
        """
        module, _, name = getattr(self, entry).partition(":")
        return getattr(import_module(module), name)


LIKELIHOOD = Kind(
    settings="nextpixel.recipes.settings:TrainingSettings",
    networks="nextpixel.models:MODELS",
    train="nextpixel.likelihood_run:train",
    report="nextpixel.likelihood_run:write_report",
    evaluate="nextpixel.cli.evaluate:evaluate_likelihood",
    conditioned=True,
)
# By the names of their networks; every other name is one of `nextpixel.models`.
KINDS = {
    "embedding": Kind(
        settings="nextpixel.recipes.settings:TripletSettings",
        networks="nextpixel.identities.network:NETWORKS",
        train="nextpixel.identities.triplets:train_embedding",
        report="nextpixel.identities.triplets:write_embedding_report",
        evaluate="nextpixel.cli.evaluate:evaluate_identities",
    ),
}


def kind_of(model: Any) -> Kind:
    """The kind of run that trains a model of this name; of an unknown one, `networks` lists the known ones."""
    return KINDS.get(model, LIKELIHOOD) if isinstance(model, str) else LIKELIHOOD


@dataclass
class Experiment:
    """Everything that a run is made from.

    Args:
        recipe: name of the recipe it started from.
        about: what the recipe is, and where it leaves the paper.
        model: `name` of the architecture and its constructor's arguments; shape and levels come from the data.
        data: where the images come from.
        training: how the model is trained.
    """

    recipe: str = "custom"
    about: str = ""
    model: dict[str, Any] = field(default_factory=lambda: {"name": "gated-pixelcnn"})
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    @property
    def kind(self) -> Kind:
        return kind_of(self.model.get("name"))

    def save(self, path: Path) -> None:
        """Write YAML that `read_experiment` reads.

        Raises:
            InputError: the file cannot be written.
        """
        with write_aside(path) as aside:
            aside.write_text(
                yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
            )


def recipe_names() -> list[str]:
    """The recipes in the package, by name."""
    return sorted(path.name.removesuffix(".yaml") for path in files("nextpixel.recipes").iterdir() if path.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe of the package.

    Raises:
        InputError: an unknown name; the message gives the nearest ones.

    Example:
        >>> read_recipe("digit")
        Traceback (most recent call last):
        nextpixel.errors.InputError: unknown recipe 'digit': did you mean digits, ...? `nextpixel recipes` lists all
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise InputError(f"unknown recipe {name!r}: did you mean {', '.join(near)}? `nextpixel recipes` lists all")
    return {"recipe": name, **yaml.safe_load((files("nextpixel.recipes") / f"{name}.yaml").read_text(encoding="utf-8"))}


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML file, as they stand there.

    Raises:
        InputError: no such file, no YAML, or an unknown section or setting, which is named.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold the sections {', '.join(f.name for f in fields(Experiment))}")
    _refuse_unknown(values, Experiment, str(path))
    for section, kind in (("recipe", str), ("about", str), ("model", dict), ("data", dict), ("training", dict)):
        value = values.get(section)
        if value is not None and not (isinstance(value, kind) and all(isinstance(name, str) for name in value)):
            expected = "a text" if kind is str else "settings by name"
            raise InputError(f"{path}: section {section} is {str(value)[:100]!r}, expected {expected}")
    for section, kind in (("data", DataSettings), ("training", _training(values))):
        _refuse_unknown(values.get(section) or {}, kind, f"{path}, section {section}")
    return values


def read_experiment(path: str | Path) -> Experiment:
    """The experiment of a run's config.yaml.

    Raises:
        InputError: as `read_config`.
    """
    return make_experiment(of_before(read_config(path)))


def of_before(values: dict[str, Any]) -> dict[str, Any]:
    """A run's config, with the rule of its splits where it was made before there were two."""
    data = {"split_by": "position", **(values.get("data") or {})}
    return {**values, "data": data}


def make_experiment(values: dict[str, Any]) -> Experiment:
    """The experiment of a recipe's or config file's known settings.

    Example:
        >>> make_experiment(read_recipe("digits")).training.epochs
        30
    """
    data, training = (_tuples(values.get(section) or {}) for section in ("data", "training"))
    rest = {name: value for name, value in values.items() if name not in ("data", "training")}
    return Experiment(**rest, data=DataSettings(**data), training=_training(values)(**training))


def _training(values: dict[str, Any]) -> type[TrainingSettings]:
    model = values.get("model")
    return kind_of(model.get("name") if isinstance(model, dict) else None).load("settings")


def _refuse_unknown(values: dict[str, Any], kind: type, where: str) -> None:
    known = [f.name for f in fields(kind)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"{where}: unknown setting {unknown[0]!r}, expected one of {', '.join(known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
