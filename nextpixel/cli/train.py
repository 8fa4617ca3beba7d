"""Training: `nextpixel train RECIPE` makes a run, `nextpixel report RUN` reports on one, `nextpixel recipes` lists recipes."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import add_settings, set_defaults
from nextpixel.data.settings import FORMS, DataSettings
from nextpixel.errors import InputError
from nextpixel.recipes import KINDS, Experiment, kind_of, of_before, read_config, read_recipe

CONDITION = (
    "labels: images depend on their labels; encoded: on a code of themselves, an autoencoder's of 10 numbers; embedding: on the "
    "vector of an image of their identity (--data.embedding RUN); vector: on numbers of a table (--data.vector a,b,c); known: on "
    "what is given of an image, at any places, so that the rest is drawn given all of it (--data.masks); labels+known: on both; "
    "or a condition's config, whose entries are options too: --model.condition.features 100"
)
REPORT = (
    "what follows training: nothing, likelihood and pictures, or also baselines and the sections of classes, portraits and "
    "reconstructions; `nextpixel report RUN` makes up for it"
)
PICTURES, OWN = "pictures", "your-pictures"  # the recipe that looks at the data first, and its source before it has any
FROM_DATA = ("shape", "levels", "condition")


def add_train(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments; those of the model are its constructor's, once the recipe or config names the model."""
    parser.add_argument(
        "recipe", nargs="?", help="a recipe of `nextpixel recipes`; RECIPE --help also shows its model's settings"
    )
    parser.add_argument("--config", help="a YAML file such as a run's config.yaml, instead of a recipe")
    parser.add_argument("--out", help="the run folder (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted run in --out")
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    parser.add_argument(
        "--minutes", type=float, help="of the recipe pictures: for all of the run (30); of others: --training.minutes"
    )
    base = _base(argv)
    detail = "short" if base.get("recipe") == PICTURES else "full"
    parser.add_argument("--report", type=Literal["none", "short", "full"], default=detail, help=REPORT)
    if base:
        known = _add_model(parser, base)
        set_defaults(parser, "model", {k: v for k, v in base["model"].items() if k != "name"}, known, base["where"])
    training = kind_of(base["model"]["name"] if base else None).load("settings")
    for group, kind in (("data", DataSettings), ("training", training)):
        add_settings(parser, group, kind)
        set_defaults(parser, group, base.get(group) or {}, list(kind.__dataclass_fields__), base.get("where", ""))


def run_train(args: Any) -> None:
    """Train, and print figures and paths."""
    words = [args.recipe] if args.recipe else []
    words += [f"--config={args.config}"] if args.config else []
    base = _base(words + [f"--out={args.out}"] * bool(args.out) + ["--resume"] * args.resume)
    if not base:
        raise InputError("nothing to train: give a recipe first (see `nextpixel recipes`), --config FILE, or --out RUN --resume")
    if "model" not in args:
        raise InputError(f"put the recipe {args.recipe} first: nextpixel train {args.recipe} ...")
    if args.threads is not None:
        set_threads(args.threads)
    if args.data.source == OWN:
        raise InputError(f"train {PICTURES} is for pictures of your own: name them with --data FOLDER ({FORMS})")
    kind = kind_of(base["model"]["name"])
    experiment = Experiment(
        recipe=base.get("recipe", "custom"),
        about=base.get("about", ""),
        model={"name": base["model"]["name"], **dict(args.model)},
        data=DataSettings(**dict(args.data)),
        training=kind.load("settings")(**dict(args.training)),
    )
    if args.minutes is not None and (args.resume or experiment.recipe != PICTURES):
        experiment.training.minutes = args.minutes
    from rich.console import Console

    out = Path(args.out or Path("runs") / experiment.recipe)
    with endings():
        kind.load("train")(experiment, out, args.resume, Console(), args.report, own_process=True)


@contextmanager
def endings() -> Iterator[None]:
    """How a run that does not finish ends the command: one line, from the first of its processes only, and its exit status."""
    from nextpixel.training.processes import is_first
    from nextpixel.training.signals import Interrupted

    try:
        yield
    except Interrupted as interrupted:
        if not is_first():
            # The first process prints the line, when it has saved; one that is not stopping learns it from the exit status.
            raise SystemExit(0 if interrupted.together else interrupted.status) from None
        print(f"nextpixel: {interrupted}", file=sys.stderr)
        raise SystemExit(interrupted.status) from None
    except InputError:
        if not is_first():
            raise SystemExit(2) from None
        raise


def _base(argv: list[str]) -> dict[str, Any]:
    """What the options change: the recipe (the first word), --config, or the config of the run that is resumed; else {}."""
    recipe = argv[0] if argv and not argv[0].startswith("-") else None
    config, out = _value(argv, "--config"), _value(argv, "--out")
    if recipe and config:
        raise InputError(f"give the recipe {recipe} or --config {config}, not both")
    if "--resume" in argv:
        if out is None and recipe is None:
            raise InputError("--resume needs the run to go on with: --out RUN")
        return _resumed(Path(out or Path("runs") / str(recipe)), recipe)
    if recipe == PICTURES:
        base = {"where": f"recipe {recipe}", **own_pictures(argv)}
    elif recipe:
        base = {"where": f"recipe {recipe}", **read_recipe(recipe)}
    elif config:
        base = {"where": config, **read_config(config)}
    else:
        return {}
    if not isinstance(base.get("model"), dict) or "name" not in base["model"]:
        raise InputError(f"{base['where']} names no model: expected a section model with a name")
    return base


def own_pictures(argv: list[str]) -> dict[str, Any]:
    """What the recipe for one's own pictures chooses for the data that are given, once; without data the recipe as it stands."""
    base = read_recipe(PICTURES)
    source, minutes = _value(argv, "--data.source"), _value(argv, "--minutes")
    if source is None or "--help" in argv or "-h" in argv:
        return base
    given = {}
    for name in DataSettings.__dataclass_fields__:
        if (text := _value(argv, f"--data.{name}")) is not None:
            given[name] = text
    return dict(_chosen(tuple(given.items()), minutes, _value(argv, "--threads")))


@cache
def _chosen(given: tuple[tuple[str, str], ...], minutes: str | None, threads: str | None) -> dict[str, Any]:
    """Looks at the data, and prints what is chosen."""
    from jsonargparse import Namespace

    from nextpixel.cli.parser import Parser
    from nextpixel.recipes.pictures import choose

    parser = Parser()
    add_settings(parser, "data", DataSettings)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int)
    words = [f"--data.{name}={text}" for name, text in given]
    words += [f"--minutes={minutes}"] * (minutes is not None) + [f"--threads={threads}"] * (threads is not None)
    args: Namespace = parser.parse_args(words)
    if args.threads is not None:
        set_threads(args.threads)
    choice = choose(DataSettings(**dict(args.data)), args.minutes)
    for line in choice.lines:
        print(line, file=sys.stderr)
    return choice.values


def _resumed(out: Path, recipe: str | None) -> dict[str, Any]:
    if not (out / "config.yaml").is_file():
        raise InputError(f"{out} is no run to resume: it has no config.yaml")
    base = {"where": str(out / "config.yaml"), **of_before(read_config(out / "config.yaml"))}
    if recipe and base.get("recipe") != recipe:
        raise InputError(f"{out} is a run of {base.get('recipe')}, not of {recipe}: give another --out")
    return base


def _value(argv: list[str], option: str) -> str | None:
    """The value of an option before the parser exists."""
    for k, word in enumerate(argv):
        if word == option and k + 1 < len(argv):
            return argv[k + 1]
        if word.startswith(option + "="):
            return word.removeprefix(option + "=")
    return None


def _add_model(parser: ArgumentParser, base: dict[str, Any]) -> list[str]:
    """Add the model's arguments and return their names."""
    import inspect

    name = base["model"]["name"]
    kind = kind_of(name)
    networks = kind.load("networks")
    if name not in networks:
        raise InputError(f"{base['where']}: unknown model {name!r}, expected one of {', '.join((*networks, *KINDS))}")
    add_settings(parser, "model", networks[name], skip=FROM_DATA)
    own = [parameter for parameter in inspect.signature(networks[name]).parameters if parameter not in FROM_DATA]
    if not kind.conditioned:
        return own
    words = Literal["labels", "encoded", "embedding", "vector", "known", "labels+known"]
    parser.add_argument("--model.condition", type=words | dict[str, Any] | None, help=CONDITION)
    return ["condition", *own]


def set_threads(threads: int) -> None:
    """Let torch use so many threads.

    Raises:
        InputError: below 1.
    """
    import torch

    if threads < 1:
        raise InputError(f"--threads is {threads}: expected at least 1")
    torch.set_num_threads(threads)


def add_report(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, also of a run that was stopped")
    parser.add_argument(
        "--report",
        type=Literal["short", "full"],
        default="full",
        help="short: likelihood and pictures; full: also baselines and the sections of classes, portraits and reconstructions",
    )
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")


def run_report(args: Any) -> None:
    """Evaluate, write, and print figures and paths."""
    from rich.console import Console

    from nextpixel.recipes import read_experiment

    if args.threads is not None:
        set_threads(args.threads)
    out = Path(args.run)
    with endings():
        read_experiment(out / "config.yaml").kind.load("report")(out, Console(), args.report, own_process=True)


def add_recipes(parser: ArgumentParser, argv: list[str]) -> None:
    """No arguments."""


def run_recipes(args: Any) -> None:
    """Print every recipe: name, model, data, and what it is."""
    from nextpixel.recipes import read_recipe, recipe_names

    names = recipe_names()
    recipes = {name: read_recipe(name) for name in names}
    widths = max(24, *(len(name) + 2 for name in names)), max(18, *(len(r["model"]["name"]) + 2 for r in recipes.values()))
    for name, recipe in recipes.items():
        data = f"{recipe['data']['source']}, {recipe['data']['levels']} levels"
        print(f"{name:{widths[0]}s}{recipe['model']['name']:{widths[1]}s}{data}")
        print(textwrap.indent(textwrap.fill(" ".join(recipe["about"].split()), 96), "    "), end="\n\n")
