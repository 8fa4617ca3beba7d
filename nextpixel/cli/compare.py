"""`nextpixel compare RUN RUN ...`: models beside each other on the same images."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import add_device, add_force, find_device
from nextpixel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

FILES = ("comparison.json", "curves.png")


@dataclass(frozen=True, eq=False)
class Compared:
    """One model's part: its name as given, its architecture, size and speed, and the nats of each image."""

    name: str
    architecture: str
    parameters: int
    megabytes: float
    images_per_second: float
    nats: "np.ndarray"
    folder: Path


def add_compare(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("runs", nargs="+", help="runs or names of bundled models; differences are to the first")
    parser.add_argument("--data.source", help="the images (also: --data); by default the first run's own test images")
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--most", type=int, help="at most so many images, spread over the split")
    parser.add_argument("--out", help="a folder for comparison.json and, of runs, curves.png")
    parser.add_argument("--json", help="write the figures to this file, or to the output with -")
    add_force(parser)
    add_device(parser)


def run_compare(args: Any) -> None:
    """Measure, print the table, and write what is asked for."""
    from nextpixel.files import require_new, write_text

    if len(args.runs) < 2:
        raise InputError(f"compare {args.runs[0]}: expected at least two runs")
    if args.most is not None and args.most < 1:
        raise InputError(f"--most is {args.most}: expected at least 1")
    out = None if args.out is None else Path(args.out)
    for path in [
        *([] if out is None else [out / name for name in FILES]),
        *([args.json] if args.json not in (None, "-") else []),
    ]:
        require_new(path, args.force, [])
    compared = _measured(args)
    rows = figures(compared)
    text = json.dumps(rows, indent=1) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    _print(rows)
    if args.json is not None:
        write_text(Path(args.json), text)
        print(args.json)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / FILES[0], text)
        print(out / FILES[0])
        if _draw_curves(compared, out / FILES[1]):
            print(out / FILES[1])


def _measured(args: Any) -> list[Compared]:
    from nextpixel.cli.runs import open_run
    from nextpixel.cli.score import images_of
    from nextpixel.scoring.evaluation import evaluate

    device = find_device(args.device)
    runs = [open_run(located(name)) for name in args.runs]
    first = runs[0].model
    for name, run in zip(args.runs, runs, strict=True):
        mine, theirs = ((m.shape[0], m.levels) for m in (first, run.model))
        if mine != theirs:
            of = "{} channels and {} levels"
            raise InputError(f"{name} is for {of.format(*theirs)}, but {args.runs[0]} for {of.format(*mine)}: nothing to compare")
    images = images_of(runs[0], args["data"]["source"], args.split)
    compared = []
    for name, run in zip(args.runs, runs, strict=True):
        model = run.model.to(device)
        begin = time.perf_counter()
        found = evaluate(model, images, most=args.most)
        seconds = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in run.folder.glob("model/*"))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        compared.append(
            Compared(name, model.name, parameters, size / 1e6, len(found.nats) / seconds, found.nats / found.dims, run.folder)
        )
    return compared


def figures(compared: list[Compared]) -> list[dict[str, Any]]:
    r"""A row for each model: bits/dim with its standard error, and its difference d from the first on the same images.

    .. math:: \text{paired standard error} = s_d / \sqrt N

    Differences have far smaller errors than the figures themselves: what is hard for one model is hard for the other.
    """
    first, rows = compared[0].nats, []
    for one in compared:
        bits, difference = one.nats / math.log(2), (one.nats - first) / math.log(2)
        root = math.sqrt(len(bits))
        several = len(bits) > 1
        rows.append(
            {
                "name": one.name,
                "architecture": one.architecture,
                "parameters": one.parameters,
                "megabytes": one.megabytes,
                "images": len(bits),
                "images_per_second": one.images_per_second,
                "bits_per_dim": float(bits.mean()),
                "standard_error": float(bits.std(ddof=1)) / root if several else None,
                "difference": float(difference.mean()),
                "paired_standard_error": float(difference.std(ddof=1)) / root if several else None,
            }
        )
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    table.add_column("architecture")
    for name in ("parameters", "MB", "bits/dim", "difference", "images/s"):
        table.add_column(name, justify="right")
    for row in rows:
        error, paired = (
            "" if row[name] is None else f" ± {row[name]:.4f}" for name in ("standard_error", "paired_standard_error")
        )
        difference = "" if row is rows[0] else f"{row['difference']:+.4f}{paired}"
        size = f"{row['megabytes']:.2f}"
        figure = f"{row['bits_per_dim']:.4f}{error}"
        rate = f"{row['images_per_second']:.0f}"
        table.add_row(row["name"], row["architecture"], f"{row['parameters']:,}", size, figure, difference, rate)
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    print(f"{rows[0]['images']} images; differences are to {rows[0]['name']}, with standard errors of pairs")


def _draw_curves(compared: list[Compared], path: Path) -> bool:
    """The validation bits/dim of all that have been trained here, over their steps; whether there is one."""
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    from nextpixel.files import write_aside
    from nextpixel.reports.report import VALIDATION, read_curve

    curves = {
        one.name: read_curve(one.folder / "metrics.csv", VALIDATION) for one in compared if (one.folder / "metrics.csv").is_file()
    }
    if not curves:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, "o-", markersize=3, label=name)
    axes.set(xlabel="step", ylabel="validation, bits/dim")
    axes.grid(alpha=0.3)
    axes.legend()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
    return True
