"""`nextpixel report RUN`: evaluate a run's best weights so far and write its report, its pictures and its figures."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, also of a run that was stopped")
    parser.add_argument(
        "--report",
        type=Literal["short", "full"],
        default="full",
        help="short: likelihood and pictures; full: also baselines and the sections of classes, portraits and reconstructions",
    )
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")


def run(args: Any) -> None:
    """Evaluate, write, and print figures and paths."""
    from rich.console import Console

    from nextpixel.cli.train import endings, set_threads
    from nextpixel.recipes.experiment import read_experiment

    if args.threads is not None:
        set_threads(args.threads)
    out = Path(args.run)
    with endings():
        read_experiment(out / "config.yaml").kind.load("report")(out, Console(), args.report, own_process=True)
