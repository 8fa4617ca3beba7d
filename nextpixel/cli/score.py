"""Scores: `nextpixel score RUN --data D`, `nextpixel classify RUN --data D` and `nextpixel information RUN --data D`."""

import csv
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import add_device, add_force, find_device
from nextpixel.errors import InputError, Notice

if TYPE_CHECKING:
    import numpy as np

    from nextpixel.cli.runs import Run
    from nextpixel.data.images import Images
    from nextpixel.scoring.unusual import Figures, Measure

METHOD = (
    "likelihood, complexity (minus the size of a file), ratio (minus a background model), typicality, shuffle, combined; several "
    "with commas"
)
REFERENCES = 1000  # validation images of the calibration
SHOWN = 12  # images of a row of the sheet


def add_score(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, or the name of a bundled model")
    parser.add_argument("--data.source", help="the images (also: --data); by default the run's own test images")
    parser.add_argument("--against", help="other images, to tell apart from these: AUROC, AUPR, and the ROC curve")
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--method", default="complexity", help=METHOD)
    parser.add_argument("--background", help="the run or name of a background model, for ratio")
    parser.add_argument("--smooth", type=int, default=1, help="mean of the maps over windows of so many rows and columns")
    parser.add_argument("--most", type=int, help="at most so many images of each set, spread over it")
    parser.add_argument("--out", default="scores", help="the folder of tables and pictures")
    add_force(parser)
    add_device(parser)
    parser.add_argument("--batch_size", type=int, default=64, help="images per forward pass")


def run_score(args: Any) -> None:
    """Score, write tables and pictures, and print the figures."""
    import numpy as np

    from nextpixel.cli.runs import open_run
    from nextpixel.files import require_new, write_text
    from nextpixel.models.storage import load
    from nextpixel.scoring.unusual import Measure, percentile, score, separate

    methods = [word.strip() for word in args.method.split(",")]
    _at_least_one(args)
    out, device = Path(args.out), find_device(args.device)
    names = ["scores.csv", "scores.json", "histograms.png", "sheet.png", *(["roc.png"] if args.against else [])]
    for name in names:
        require_new(out / name, args.force, [])
    run = open_run(located(args.run))
    model = run.model.to(device)
    background = None if args.background is None else load(located(args.background)).to(device)
    measure = Measure(model, methods, background, args.batch_size)
    sets = {"data": images_of(run, args["data"]["source"], args.split)}
    if args.against is not None:
        sets["against"] = images_of(run, args.against, args.split)
    figures = {name: measure.images(images, args.most, f"scoring {name}") for name, images in sets.items()}
    reference = _reference(run, measure, needed=bool({"typicality", "combined"} & set(methods)))
    scores = {m: {name: score(m, found, reference) for name, found in figures.items()} for m in methods}
    usual = None if reference is None else {m: score(m, reference, reference) for m in methods}
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / "scores.csv", sets, args.most, figures, scores, usual)
    summary: dict[str, Any] = {"run": args.run, "methods": {}, "images": {name: len(f["nats"]) for name, f in figures.items()}}
    dims = int(np.prod(sets["data"].shape))
    summary["bits_per_dim"] = {name: float(f["nats"].mean() / dims / np.log(2)) for name, f in figures.items()}
    for m in methods:
        entry: dict[str, Any] = {f"mean of {name}": float(values.mean()) for name, values in scores[m].items()}
        if usual is not None:
            entry["median percentile"] = {n: float(np.median(percentile(v, usual[m]))) for n, v in scores[m].items()}
        if "against" in sets:
            entry |= asdict(separate(scores[m]["data"], scores[m]["against"]))
        summary["methods"][m] = entry
    if "against" in sets and "codec" in figures["data"]:  # the trivial detector, beside which others are judged
        summary["minus codec alone"] = asdict(separate(-figures["data"]["codec"], -figures["against"]["codec"]))
    write_text(out / "scores.json", json.dumps(summary, indent=1) + "\n")
    _draw(out, run, sets, args, scores, background)
    for line in _lines(summary, sets):
        print(line)
    for name in names:
        print(out / name)


def _at_least_one(args: Any) -> None:
    for name in ("most", "batch_size", "smooth"):
        if args[name] is not None and args[name] < 1:
            raise InputError(f"--{name} is {args[name]}: expected at least 1")


def images_of(run: "Run", source: str | None, split: str) -> "Images":
    """A split of other data, brought to the run's levels, or of its own."""
    from nextpixel.data.splits import load, load_one
    from nextpixel.models.names import numbered_classes

    settings = run.experiment.data
    if source is None:
        return load(settings)[split]
    labelled = run.model.condition is not None and run.model.condition.source == "label"
    classes = (settings.classes or numbered_classes(run.model)) if labelled else None
    return load_one(replace(settings, source=source, classes=classes, split_by="image" if labelled else "position"), split)


def _reference(run: "Run", measure: "Measure", needed: bool) -> "Figures | None":
    """The figures of the run's own validation images, kept in RUN/calibration.npz; None where its data are not here."""
    from nextpixel.bundled import HOME
    from nextpixel.data.splits import load
    from nextpixel.scoring.unusual import load_figures, save_figures

    wanted = {"nats"}
    wanted |= {"codec"} if {"complexity", "combined"} & set(measure.methods) else set()
    wanted |= {"shuffle"} if "shuffle" in measure.methods else set()
    path = run.folder / "calibration.npz"
    if measure.background is None and path.is_file():
        kept = load_figures(path)
        if wanted <= kept.keys():
            return kept
    try:
        validation = load(run.experiment.data).validation
    except InputError as error:
        if needed:
            raise InputError(f"the run's validation images are needed, to which the method is relative: {error}") from error
        warnings.warn(f"no percentiles: the run's validation images are not here ({error})", Notice, stacklevel=2)
        return None
    found = measure.images(validation, REFERENCES, "measuring validation images")
    if measure.background is None and HOME not in path.parents:
        save_figures(found, path)
    return found


def _write_csv(path: Path, sets: Any, most: int | None, figures: Any, scores: Any, usual: Any) -> None:
    from nextpixel.files import write_aside
    from nextpixel.scoring.unusual import percentile

    columns = list(scores)
    ranks = [] if usual is None else [f"{m} percentile" for m in columns]
    with write_aside(path) as aside, open(aside, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "index", "file", "label", "nats", *columns, *ranks])
        for name, images in sets.items():
            chosen = images.spread(len(images) if most is None else most)
            of = [] if usual is None else [percentile(scores[m][name], usual[m]) for m in columns]
            for n, k in enumerate(chosen):
                file_name = "" if images.names is None else images.names[k]
                label = "" if images.labels is None else int(images.labels[k])
                values = [figures[name]["nats"][n], *(scores[m][name][n] for m in columns)]
                writer.writerow([name, k, file_name, label, *(f"{v:.9g}" for v in values), *(f"{rank[n]:.4g}" for rank in of)])


def _draw(out: Path, run: "Run", sets: Any, args: Any, scores: Any, background: Any) -> None:
    """Histograms, ROC curves, and a sheet of the most and the least unusual images with maps."""
    from nextpixel.reports.scores import draw_histograms, draw_roc, draw_sheet

    draw_histograms(scores, out / "histograms.png")
    if "against" in sets:
        draw_roc({m: s["data"] for m, s in scores.items()}, {m: s["against"] for m, s in scores.items()}, out / "roc.png")
    first = next(iter(scores))
    rows = []
    for name, images in sets.items():
        values = scores[first][name]
        order = values.argsort()
        for what, places in (("most unusual", order[::-1][:SHOWN]), ("least unusual", order[:SHOWN])):
            rows.append((f"{name}, {what} by {first}", *_with_maps(run, images, args, places, background), values[places]))
    draw_sheet(rows, run.model.levels, out / "sheet.png")


def _with_maps(run: "Run", images: "Images", args: Any, places: "np.ndarray", background: Any) -> tuple[Any, Any]:
    from nextpixel.conditions import cond_of
    from nextpixel.scoring.unusual import maps, smoothed

    chosen = images.spread(len(images) if args.most is None else args.most)
    x, labels = images.__getitems__([chosen[k] for k in places])
    x = x.to(run.model.device)
    cond = cond_of(run.model.condition, x, None if labels is None else labels.to(x.device))
    where = smoothed(maps(run.model, x, cond, background).float(), args.smooth)
    return x.cpu().numpy(), where.cpu().numpy()


def _lines(summary: dict[str, Any], sets: Any) -> list[str]:
    made = []
    for m, entry in summary["methods"].items():
        if "auroc" in entry:
            value, low, high = entry["auroc"]
            rest = f"AUPR {entry['aupr'][0]:.3f}, FPR at 95 % {entry['fpr95'][0]:.3f}"
            made.append(f"{m}: AUROC {value:.3f} ({low:.3f} to {high:.3f}), {rest}")
        else:
            middle = entry.get("median percentile", {}).get("data")
            rank = "" if middle is None else f"; half are more unusual than {middle:.0f} % of the validation images"
            made.append(f"{m}: mean {entry['mean of data']:.4g} nats{rank}")
    if "minus codec alone" in summary:
        made.append(f"for comparison, small files alone: AUROC {summary['minus codec alone']['auroc'][0]:.3f}")
    return made


def add_classify(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="the run folder of a class-conditional model, or the name of a bundled one")
    parser.add_argument("--data.source", help="the images (also: --data); by default the run's own test images")
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--prior", help="weights of the classes as 1,1,2, or counted: those of the training images")
    parser.add_argument("--most", type=int, help="at most so many images, spread over the split")
    parser.add_argument("--out", default="classes", help="the folder of tables and pictures")
    add_force(parser)
    add_device(parser)


def run_classify(args: Any) -> None:
    """Classify, write tables and pictures, and print the figures."""
    from nextpixel.cli.runs import open_run
    from nextpixel.files import require_new, write_text
    from nextpixel.models.names import classes_of
    from nextpixel.reports.scores import draw_confusion, draw_reliability
    from nextpixel.scoring.classification import classify

    if args.most is not None and args.most < 1:
        raise InputError(f"--most is {args.most}: expected at least 1")
    out, device = Path(args.out), find_device(args.device)
    files = ["posteriors.csv", "classes.json", "confusion.png", "reliability.png"]
    for name in files:
        require_new(out / name, args.force, [])
    run = open_run(located(args.run))
    model = run.model.to(device)
    if classes_of(model) is None or model.condition.source != "label":
        raise InputError(f"{args.run} is not class-conditional: expected a model that was trained with --model.condition labels")
    images = images_of(run, args["data"]["source"], args.split)
    prior = _prior(args.prior, run)
    found = classify(model, images, prior, args.most)
    classes = model.class_names or [str(k) for k in range(found.posterior.shape[1])]
    out.mkdir(parents=True, exist_ok=True)
    _write_posteriors(out / "posteriors.csv", images, args.most, found, classes)
    rate = len(found.posterior) / found.seconds
    summary = {"run": args.run, "images": len(found.posterior), "seconds": found.seconds, "images_per_second": rate}
    made = ["posteriors.csv", "classes.json"]
    if found.labels is not None:
        summary |= {"accuracy": found.accuracy, "standard_error": found.accuracy_standard_error}
        summary |= {"expected_calibration_error": found.calibration_error, "confusion": found.confusion.tolist()}
        draw_confusion(found, classes, out / "confusion.png")
        draw_reliability(found, out / "reliability.png")
        made = files
        figure = f"{found.accuracy:.4f} ± {found.accuracy_standard_error:.4f}"
        print(f"accuracy {figure} on {len(found.posterior)} images; expected calibration error {found.calibration_error:.4f}")
    print(f"{rate:.1f} images per second")
    write_text(out / "classes.json", json.dumps(summary, indent=1) + "\n")
    for name in made:
        print(out / name)


def _prior(text: str | None, run: "Run") -> Any:
    import numpy as np

    from nextpixel.data.splits import load
    from nextpixel.models.names import classes_of

    if text is None:
        return None
    if text == "counted":
        train = load(run.experiment.data).train
        return np.bincount(train.labels.numpy(), minlength=classes_of(run.model)) + 1
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--prior {text[:100]}: expected counted, or a weight for each class, such as 1,1,2") from None


def _write_posteriors(path: Path, images: "Images", most: int | None, found: Any, classes: list[str]) -> None:
    from nextpixel.files import write_aside

    chosen = images.spread(len(images) if most is None else most)
    with write_aside(path) as aside, open(aside, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "file", "label", "found", *(f"p({name})" for name in classes)])
        for n, k in enumerate(chosen):
            label = "" if images.labels is None else classes[int(images.labels[k])]
            name = "" if images.names is None else images.names[k]
            writer.writerow([k, name, label, classes[found.found[n]], *(f"{p:.6g}" for p in found.posterior[n])])


def add_information(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, or the name of a bundled model")
    parser.add_argument(
        "--data.source", nargs="+", help="sets of images to compare (also: --data; default: the run's own test images)"
    )
    parser.add_argument("--split", default="test", help="which split of the data")
    parser.add_argument("--noise", type=float, help="entropy of the detector's noise in bits per number, which is subtracted")
    parser.add_argument("--most", type=int, help="at most so many images of each set, spread over it")
    parser.add_argument("--json", help="write the figures to this file, or to the output with -")
    add_force(parser)
    add_device(parser)


def run_information(args: Any) -> None:
    """Print the entropy rate of each set, and what is left of it without noise."""
    import sys

    from nextpixel.cli.runs import open_run
    from nextpixel.files import require_new, write_text
    from nextpixel.scoring.evaluation import evaluate

    if args.noise is not None and not 0 <= args.noise < float("inf"):
        raise InputError(f"--noise is {args.noise}: expected bits per number, at least 0")
    if args.json not in (None, "-"):
        require_new(args.json, args.force, [])
    device = find_device(args.device)
    run = open_run(located(args.run))
    model = run.model.to(device)
    rows = []
    for source in args["data"]["source"] or [None]:
        images = images_of(run, source, args.split)
        found = evaluate(model, images, most=args.most)
        pixels = images.shape[1] * images.shape[2]
        bits = found.nats / pixels / 0.6931471805599453
        error = found.nats_standard_error / pixels / 0.6931471805599453
        row = {"data": source or run.experiment.data.source, "images": len(bits), "pixels": pixels}
        row |= {"bits_per_pixel": float(bits.mean()), "standard_error": error}
        if args.noise is not None:
            row["information"] = row["bits_per_pixel"] - args.noise * images.shape[0]
        rows.append(row)
    text = json.dumps(rows, indent=1) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    for row in rows:
        left = "" if "information" not in row else f"; {row['information']:.4f} without the noise"
        figure = f"{row['bits_per_pixel']:.4f} ± {row['standard_error']:.4f} bits per pixel"
        print(f"{row['data']}: at most {figure}, {row['images']} images{left}")
    print("These are cross-entropies: a model that is worse gives more, so each is an upper bound of the entropy rate.")
    if args.json is not None:
        write_text(Path(args.json), text)
        print(args.json)
