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
    from nextpixel.identities.triplets import write_embedding_report
    from nextpixel.training.experiment import read_experiment
    from nextpixel.training.likelihood_run import write_report
    from nextpixel.training.settings import EMBEDDING

    if args.threads is not None:
        set_threads(args.threads)
    out = Path(args.run)
    with endings():
        if read_experiment(out / "config.yaml").model.get("name") == EMBEDDING:
            write_embedding_report(out, Console(), own_process=True)
        else:
            write_report(out, Console(), args.report, own_process=True)
