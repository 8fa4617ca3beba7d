"""The parser of all verbs, the options that verbs share, and settings as options: each field of a class is `--group.name`."""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from nextpixel.cli.messages import explained
from nextpixel.errors import InputError
from nextpixel.files import require_new

if TYPE_CHECKING:
    import torch

VERBS = {
    "train": "train a model from a recipe or a config file",
    "report": "evaluate a run's best weights so far and write its report",
    "evaluate": "nats per image and bits/dim of a data set, beside the honest baselines",
    "sample": "draw images",
    "complete": "draw the unknown part of images",
    "interpolate": "draw images that change from one condition to another",
    "compare": "likelihoods of several models on the same images, with paired standard errors, curves, sizes and speed",
    "score": "how unusual images are, where, and how well that tells two sets apart",
    "classify": "which class explains each image best, by a class-conditional model",
    "information": "entropy rates of data sets in bits per pixel",
    "inspect": "measure and draw what a pixel depends on (receptive field, blind spot)",
    "compress": "images to a lossless archive, by the model's likelihood",
    "decompress": "an archive back to its images",
    "info": "what an archive holds and how it was made",
    "models": "list the trained models that are in the package",
    "data": "what training would read of a folder or file: counts, sizes, classes, splits, duplicates",
    "push": "put a run's model, its card and its figures into a repository of the Hugging Face hub",
    "recipes": "list the recipes",
    "bench": "measure speed on this machine: sampling and training beside what the arithmetic would allow",
}

# Verbs that share a file; each other verb has one of its own.
FILES = {
    "sample": "draw",
    "interpolate": "draw",
    "report": "train",
    "classify": "score",
    "information": "score",
    "recipes": "train",
    "compress": "archives",
    "decompress": "archives",
    "info": "archives",
}

LIKE = "a picture file: draw what is like it, given its code or its embedding; it is prepared as the run's data are"
GUIDANCE = (
    "s of p(x|condition)^s p(x)^(1-s), symbol by symbol: 1 is the model, 0 the unconditional one, above 1 more typical images"
)


DEVICE = "where to compute: auto (a GPU where there is one), cpu, cuda, or cuda:1 for the second GPU"
PAIRS = ("--data.size", "--data.crop")
LISTS = ("--data.vector", "--data.masks")


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line with the way out.

    Attributes:
        verb: the parser of the verb that is given, whose options a message names.
    """

    verb: "Parser | None" = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(explained(str(message), self.verb or self)) from ex


def make_parser(argv: list[str]) -> Parser:
    """The parser of all verbs, with the arguments of the one that `argv` begins with."""
    from nextpixel import __version__

    parser = Parser(
        prog="nextpixel", description="The PixelCNN family of image models, with exact likelihoods.", version=__version__
    )
    verbs = parser.add_subcommands(dest="verb", title="verbs")
    for name, about in VERBS.items():
        verb = Parser(description=about[0].upper() + about[1:] + ".")
        if argv[:1] == [name]:
            parser.verb = verb
            function_of("add", name)(verb, argv[1:])
        verbs.add_subcommand(name, verb, help=about)
    return parser


def function_of(what: str, verb: str) -> Callable[..., None]:
    """`add_VERB` adds a verb's arguments to a parser, `run_VERB` runs it; the file is imported now."""
    return getattr(import_module(f"nextpixel.cli.{FILES.get(verb, verb)}"), f"{what}_{verb}")


def add_condition(parser: ArgumentParser, label: str, like: str) -> None:
    """The options --label and --like, with these helps, which `cli.runs.RunConditions` reads."""
    parser.add_argument("--label", type=str, help=f"{label}, by its name or number")
    parser.add_argument("--like", help=like)


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


def add_settings(parser: ArgumentParser, group: str, kind: type, skip: tuple[str, ...] = ()) -> None:
    """Add `--group.name` for every constructor argument of `kind`, with its type, default and the help of the docstrings.

    (jsonargparse's own `add_class_arguments` would also add an option `--group FILE`, but `--data` names the data.)
    """
    section = parser.add_argument_group(f"{group} settings")
    hints = get_type_hints(kind.__init__)
    # A class describes what it adds to the classes that it is made from.
    helps = {
        name: param.description
        for ancestor in reversed(kind.__mro__)
        for param in docstring_parser.parse(inspect.cleandoc(ancestor.__doc__ or "")).params
        for name in param.arg_name.split(", ")
    }
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in skip:
            text = " ".join((helps.get(name) or "").split())
            section.add_argument(f"--{group}.{name}", type=hints[name], default=parameter.default, help=text)


def set_defaults(parser: ArgumentParser, group: str, values: dict[str, Any], known: list[str], where: str) -> None:
    """Let a recipe or config file set the defaults of a group; they are checked like the user's own values.

    Raises:
        InputError: an unknown name.
    """
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{where}: unknown setting {group}.{name}, expected one of {', '.join(known)}")
        if f"--{group}.{name}" in PAIRS and isinstance(value, str):
            try:
                value = list(pair(value))
            except InputError as error:
                raise InputError(f"{where}: {group}.{name}: {error}") from None
        parser.set_defaults({f"{group}.{name}": value})


def pair(text: str) -> tuple[int, int]:
    """Two numbers, as sizes and places are given on the command line.

    Example:
        >>> pair("28x32"), pair("3,4")
        ((28, 32), (3, 4))
    """
    match = re.fullmatch(r"\s*\[?\s*(\d+)\s*[x,]\s*(\d+)\s*\]?\s*", text)
    if match is None:
        raise InputError(f"{text!r} is no pair of numbers: expected for example 28x32")
    return int(match[1]), int(match[2])


def add_force(parser: ArgumentParser) -> None:
    """The option, which goes to `nextpixel.files.require_new`."""
    parser.add_argument("--force", action="store_true", help="replace a file that exists already, but never one that is read")


def add_json(parser: ArgumentParser) -> None:
    """The option of each verb that measures, which `cli.measured` reads."""
    parser.add_argument("--json", help="write what was measured, and how, to this file; - is stdout, and the rest goes to stderr")


def output(
    text: str,
    endings: tuple[str, ...] = (".png", ".npy", ".npz"),
    force: bool = False,
    inputs: Iterable[str | None] = (),
) -> Path:
    """Where images go: a picture, or arrays of integers; what is there is only replaced with `force`, and `inputs` never.

    Raises:
        InputError: another kind of file, or it cannot be written there; asked for before any long work.

    Example:
        >>> output("samples.jpg")
        Traceback (most recent call last):
        nextpixel.errors.InputError: --out samples.jpg: expected a file that ends in .png, .npy or .npz
    """
    if not text.endswith(endings):
        raise InputError(f"--out {text}: expected a file that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    require_new(text, force, [file for file in inputs if file is not None])
    return Path(text)


def spell_out_data(argv: list[str]) -> list[str]:
    """What is short for something else, written out.

    `--data D` is `--data.source D`, and `--strict` of train and data `--data.strict true`; sizes may be 28x32 or 28,32.

    Example:
        >>> spell_out_data(["--data.size", "28x32", "--data.crop=3,4"])
        ['--data.size', '[28, 32]', '--data.crop=[3, 4]']
        >>> spell_out_data(["digits", "--data", "mine.npy", "--data.levels", "4"])
        ['digits', '--data.source', 'mine.npy', '--data.levels', '4']
        >>> spell_out_data(["--data.vector", "age,height"])
        ['--data.vector', '["age", "height"]']
    """
    if argv[:1] in (["train"], ["data"]):
        argv = ["--data.strict=true" if word == "--strict" else word for word in argv]
    words = ["--data.source" + word[len("--data") :] if word == "--data" or word.startswith("--data=") else word for word in argv]
    for n, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in PAIRS and equals:
            words[n] = f"{option}={_as_list(value)}"
        elif n and words[n - 1] in PAIRS:
            words[n] = _as_list(word)
        elif option in LISTS and equals:
            words[n] = f"{option}={_of_words(value)}"
        elif n and words[n - 1] in LISTS:
            words[n] = _of_words(word)
    return words


def _of_words(text: str) -> str:
    """Words with commas as a list that the parser reads."""
    return text if text.startswith("[") or text == "null" else json.dumps([word.strip() for word in text.split(",")])


def _as_list(value: str) -> str:
    """A pair of numbers as the parser reads it; other text stays as it is, for the parser to refuse."""
    try:
        return "[{}, {}]".format(*pair(value))
    except InputError:
        return value
