"""`nextpixel evaluate RUN`: the exact likelihood of a data set, or the verification of its identities, beside the baselines."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import GUIDANCE, add_device, add_force, add_json, find_device
from nextpixel.errors import InputError
from nextpixel.recipes import LIKELIHOOD, read_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from torch import Tensor

    from nextpixel.cli.measured import Measured
    from nextpixel.identities.verification import Verification
    from nextpixel.models import AutoregressiveModel
    from nextpixel.results.measurement import Measurement


KNOWN = (
    "score only what is unknown, given the rest: top:0.5, left:0.3, ..., random:0.1, a mask picture, or a kind of masks of "
    "training, drawn for each image (half, hole, window, strokes, points, grid, lines)"
)


def add_evaluate(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, or the name of a bundled model (nextpixel models)")
    parser.add_argument("--data.source", help="other data (also: --data), brought to the run's levels by the run's settings")
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--csv", help="write index, file, label, nats and bits/dim of every image to this file")
    parser.add_argument("--known", help=KNOWN)
    add_json(parser)
    add_force(parser)
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    add_device(parser)
    parser.add_argument("--batch_size", type=int, default=128, help="images per forward pass")


def run_evaluate(args: Any) -> None:
    """Print the figures."""
    from nextpixel.cli.measured import open_measured

    measured, console = open_measured(args)
    args.run = located(args.run)
    config = Path(args.run) / "config.yaml"
    kind = read_experiment(config).kind if config.is_file() else LIKELIHOOD
    kind.load("evaluate")(args, console, measured)


def evaluate_likelihood(args: Any, console: "Console", measured: "Measured") -> None:
    """Print the likelihood of a split under a run's model, beside the baselines."""
    from nextpixel.cli.runs import notice_guidance, open_run
    from nextpixel.data.splits import load_one
    from nextpixel.data.trained import seen
    from nextpixel.files import require_new
    from nextpixel.identities.images import EmbeddedImages, embedding_network, load_images
    from nextpixel.models.names import numbered_classes
    from nextpixel.scoring.baselines import all_baselines, print_scores
    from nextpixel.scoring.evaluation import evaluate, what_it_means
    from nextpixel.scoring.measured import likelihood

    if args.csv:
        require_new(args.csv, args.force, [] if args["data"]["source"] is None else [args["data"]["source"]])
    device = find_device(args.device)
    opened = open_run(args.run)
    model, marginal = opened.model.to(device), opened.marginal
    settings, source = opened.experiment.data, args["data"]["source"]
    own = source is None
    network = embedding_network(opened.experiment, args.run)
    if own:
        images = load_images(settings, network)[args.split]
    else:
        classes = settings.classes or numbered_classes(opened.model)
        # A run's own layout is that of its arrays: a folder of pictures has none.
        layout = None if Path(source).expanduser().is_dir() else settings.layout
        images = load_one(replace(settings, source=source, classes=classes, layout=layout), args.split)
        images = images if network is None else EmbeddedImages(images, network, settings.embedding_of)
    if model.codes:
        images.check_codes()
    notice_guidance(args.guidance, model, args.run)
    mask = None if args.known is None else _masks(args.known, model, images.shape)
    evaluation = evaluate(model, images, args.batch_size, guidance=args.guidance, known=mask)
    baselines = all_baselines(marginal, images, model.codes) if mask is None else []
    console.print(f"{source or settings.source}, {args.split}: {images.describe_binarisation()}", highlight=False)
    print_scores(args.split, evaluation, baselines, console)
    if mask is not None:
        of_all = math.prod(images.shape)
        console.print(f"of {evaluation.dims:.1f} unknown numbers of {of_all} per image, given the others", highlight=False)
    if known := seen(images, args.run):
        console.print(known, highlight=False)
    if args.guidance != 0 and (meaning := what_it_means(model)):
        console.print(meaning, highlight=False)
    if args.csv:
        evaluation.write_csv(args.csv)
    measured.write(
        partial(
            likelihood,
            run_name(args.run),
            evaluation,
            baselines,
            source or settings.source,
            args.split,
            args.guidance,
            args.known,
        )
    )


def _masks(spec: str, model: "AutoregressiveModel", shape: tuple[int, int, int]) -> "Callable[[Sequence[int]], Tensor]":
    """What gives the masks of images by their positions: one for all, or of a kind, one for each."""
    from nextpixel.cli.complete import notice_later
    from nextpixel.data.masks import KINDS, Masks
    from nextpixel.pictures.masks import load_mask

    if spec in KINDS:
        masks = Masks([spec], shape)
        return masks.draw
    known = load_mask(spec, *shape[1:])
    notice_later(model, known, (1, *shape))
    return lambda positions: known


def evaluate_identities(args: Any, console: "Console", measured: "Measured") -> None:
    """Print how well an embedding network separates the identities of a split."""
    from nextpixel.data.splits import load_one
    from nextpixel.identities.images import describe_single, load_by_identity
    from nextpixel.identities.network import load_embedding
    from nextpixel.identities.verification import print_verifications, verify

    if args.csv:
        raise InputError(f"--csv {args.csv} is for likelihoods, but {args.run} is the run of an embedding network")
    if args.guidance != 1:
        raise InputError(f"--guidance {args.guidance} is for likelihoods, but {args.run} is the run of an embedding network")
    folder, device = Path(args.run), find_device(args.device)
    network, source = load_embedding(folder).to(device), args["data"]["source"]
    settings = read_experiment(folder / "config.yaml").data
    own = load_by_identity(settings)[args.split] if source is None else None
    images = own or load_one(replace(settings, source=source), args.split)
    result = verify(network, images)
    console.print(f"{source or settings.source}, {args.split}: {len(images)} images", highlight=False)
    print_verifications(args.split, result, console)
    if single := describe_single(images):
        console.print(single, highlight=False)
    measured.write(lambda **facts: verification(args, result, len(images), source or settings.source, **facts))


def run_name(run: str) -> str:
    """What measurements of a run are called by."""
    return Path(run).resolve().name


def verification(args: Any, found: "list[Verification]", images: int, data: str, **facts: Any) -> "Measurement":
    """The measurement: the area under the ROC curve of the embedding, and beside it the equal error rate and other scores."""
    from nextpixel.results.measurement import Measurement, finite

    embedding, *others = found
    also: dict[str, Any] = {
        "data": data,
        "split": args.split,
        "score": embedding.name,
        "equal_error_rate": embedding.equal_error_rate,
        "equal_error_rate_standard_error": finite(embedding.standard_errors[1]),
        "others": {one.name: {"roc_auc": one.roc_auc, "equal_error_rate": one.equal_error_rate} for one in others},
    }
    error = finite(embedding.standard_errors[0])
    return Measurement(run_name(args.run), embedding.roc_auc, "area under the ROC curve", error, images, also=also, **facts)
