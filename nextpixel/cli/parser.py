"""The parser of all verbs.

The verbs of the command line, and what each is for.
"""

from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from nextpixel.errors import InputError


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(" ".join(str(message).split())) from ex


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
            import_module(f"nextpixel.cli.{name}").add_arguments(verb, argv[1:])
        verbs.add_subcommand(name, verb, help=about)
    return parser


VERBS = {
    "train": "train a model from a recipe or a config file",
    "report": "evaluate a run's best weights so far and write its report",
    "evaluate": "nats per image and bits/dim of a data set, beside the honest baselines",
    "sample": "draw images",
    "complete": "draw the unknown part of images",
    "interpolate": "draw images that change from one condition to another",
    "inspect": "measure and draw what a pixel depends on (receptive field, blind spot)",
    "compress": "images to a lossless archive, by the model's likelihood",
    "decompress": "an archive back to its images",
    "info": "what an archive holds and how it was made",
    "recipes": "list the recipes",
    "bench": "measure speed on this machine: sampling and training beside what the arithmetic would allow",
}
