"""`nextpixel evaluate RUN`: the exact likelihood of a data set, beside the baselines on the same images."""

from dataclasses import replace
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.cli.settings import GUIDANCE


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--data.source", help="other data (also: --data), brought to the run's levels by the run's settings")
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--csv", help="write index, label, nats and bits/dim of every image to this file")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    parser.add_argument("--batch_size", type=int, default=128, help="images per forward pass")


def run(args: Any) -> None:
    """Print the figures."""
    from rich.console import Console

    from nextpixel.cli.runs import open_run
    from nextpixel.data.splits import load, load_one
    from nextpixel.scoring.baselines import all_baselines
    from nextpixel.scoring.evaluation import evaluate
    from nextpixel.training.reconstruction import what_it_means
    from nextpixel.training.report import print_scores

    opened = open_run(args.run)
    settings, source = opened.experiment.data, args["data"]["source"]
    own = source is None
    images = load(settings)[args.split] if own else load_one(replace(settings, source=source), args.split)
    evaluation = evaluate(opened.model, images, args.batch_size, guidance=args.guidance)
    if args.csv:
        evaluation.write_csv(args.csv)
    console = Console(soft_wrap=True)
    console.print(f"{source or settings.source}, {args.split}: {images.describe_binarisation()}", highlight=False)
    print_scores(args.split, evaluation, all_baselines(opened.marginal, images), console)
    if args.guidance != 0 and (meaning := what_it_means(opened.model)):
        console.print(meaning, highlight=False)
