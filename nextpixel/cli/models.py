"""`nextpixel models`: the trained models in the package, by name."""

import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import add_force
from nextpixel.errors import InputError


def add_models(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="only names that fit, such as 'mnist*'")
    parser.add_argument("--json", help="write all facts to this file, or to the output with -")
    add_force(parser)


def run_models(args: Any) -> None:
    """Print a table, or write JSON."""
    from dataclasses import asdict

    from nextpixel.bundled import HOME, facts, list_models, nearest
    from nextpixel.files import require_new, write_text

    names = list_models(args.pattern)
    if not names:
        raise InputError(f"no bundled model fits {args.pattern}{nearest(args.pattern.strip('*'))}")
    found = [facts(name) for name in names]
    if args.json is not None:
        text = json.dumps([{**asdict(one), "bytes": one.bytes} for one in found], indent=1, ensure_ascii=False) + "\n"
        if args.json == "-":
            sys.stdout.write(text)
            return
        require_new(args.json, args.force, [])
        write_text(Path(args.json), text)
        print(args.json)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "draws", "architecture"):
        table.add_column(name, overflow="fold")
    for name in ("parameters", "MB", "test likelihood", "minutes"):
        table.add_column(name, justify="right", overflow="fold")
    for one in found:
        figure = f"{one.figure:.4g} ± {one.standard_error:.2g} {one.unit}"
        stopped = "" if one.steps >= one.of else f" ({one.steps:,} of {one.of:,} steps)"
        size = f"{one.bytes / 1e6:.2f}"
        table.add_row(one.name, one.draws, one.architecture, f"{one.parameters:,}", size, figure, f"{one.minutes:.0f}{stopped}")
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    print(f"\nnextpixel sample {names[0]} draws from one. Each has a card: {HOME / names[0] / 'model' / 'README.md'}")
