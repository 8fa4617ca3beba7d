"""`nextpixel recipes`: what can be trained by name."""

import textwrap
from typing import Any

from jsonargparse import ArgumentParser


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """No arguments."""


def run(args: Any) -> None:
    """Print every recipe: name, model, data, and what it is."""
    from nextpixel.recipes.experiment import read_recipe, recipe_names

    for name in recipe_names():
        recipe = read_recipe(name)
        data = f"{recipe['data']['source']}, {recipe['data']['levels']} levels"
        print(f"{name:24s}{recipe['model']['name']:18s}{data}")
        print(textwrap.indent(textwrap.fill(" ".join(recipe["about"].split()), 96), "    "), end="\n\n")
