"""The parser of all verbs."""

from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from nextpixel.cli.verbs import VERBS
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
