"""`nextpixel recipes`: what can be trained by name."""

from typing import Any

from jsonargparse import ArgumentParser


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """No arguments."""


def run(args: Any) -> None:
    """Print one row per recipe."""
    from rich.console import Console
    from rich.table import Table

    from nextpixel.training.experiment import read_recipe, recipe_names

    table = Table("recipe", "model", "data", "about", box=None, pad_edge=False)
    for name in recipe_names():
        recipe = read_recipe(name)
        data = recipe["data"]
        table.add_row(
            name, recipe["model"]["name"], f"{data['source']}, {data['levels']} levels", " ".join(recipe["about"].split())
        )
    Console().print(table)
