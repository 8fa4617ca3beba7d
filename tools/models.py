"""Trains the bundled models and puts them into the package: `make models`, or `make models/NAME`.

    python tools/models.py NAME ...           train (or go on with) these, then bundle them
    python tools/models.py --bundle NAME RUN  bundle a run as far as it came

Trainings are resumable, in runs/models/NAME. Data that are no part of the package are read from the folder in NEXTPIXEL_DATA, or
fetched from the hub where that is not set.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from nextpixel.bundled import FACTS, HOME
from nextpixel.data.splits import load as load_splits
from nextpixel.files import replace_folder
from nextpixel.machine import machine_line
from nextpixel.models.storage import load, save
from nextpixel.recipes import read_experiment, read_recipe
from nextpixel.scoring.evaluation import evaluate

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "models"
DATA = os.environ.get("NEXTPIXEL_DATA")
NOT_FOR = "It draws small pictures of its training data's kind. It is no source of facts, and no judge of people."


@dataclass(frozen=True)
class Entry:
    """A bundled model to be: its recipe, what it draws, and its data.

    Args:
        recipe: of the package.
        draws, data, licence: in words.
        source: file of the data under NEXTPIXEL_DATA; None where scikit-learn or the hub has them.
        options: of `nextpixel train` beyond the recipe.
        unit: of its figure.
    """

    recipe: str
    draws: str
    data: str
    licence: str
    source: str | None = None
    options: tuple[str, ...] = ()
    unit: str = "nats"


DIGITS = ("1,797 handwritten digits of scikit-learn (UCI, Alpaydin and Kaynak 1998)", "CC BY 4.0")
FIXED = ("MNIST in the fixed binarisation of Larochelle and Murray (2011)", "CC BY-SA 3.0 (MNIST)")
MNIST = ("MNIST (LeCun, Cortes and Burges 1998)", "CC BY-SA 3.0")
FASHION = ("Fashion-MNIST (Xiao, Rasul and Vollgraf 2017)", "MIT")
CIFAR = ("CIFAR-10 (Krizhevsky 2009)", "none stated by its authors")
BINARISED = "binarized_mnist/binarized_mnist.npz"
# In the order of use.
TABLE = {
    "digits": Entry("digits", "8x8 digits", *DIGITS, unit="bits/dim"),
    "digits-class": Entry("digits-class", "8x8 digits of a class", *DIGITS, unit="bits/dim"),
    "mnist-class": Entry("mnist-class", "28x28 digits of a class", *MNIST, source="mnist"),
    "mnist-binary": Entry("mnist-binary", "28x28 digits", *FIXED, source=BINARISED),
    "mnist-binary-known": Entry(
        "mnist-binary", "28x28 digits from any mask", *FIXED, source=BINARISED, options=("--model.condition", "known")
    ),
    "mnist-binary-pixelcnn": Entry("mnist-binary-pixelcnn", "28x28 digits", *FIXED, source=BINARISED),
    "mnist-binary-row-lstm": Entry("mnist-binary-row-lstm", "28x28 digits", *FIXED, source=BINARISED),
    "mnist-binary-diagonal-bilstm": Entry("mnist-binary-diagonal-bilstm", "28x28 digits", *FIXED, source=BINARISED),
    "mnist-binary-multiscale": Entry("mnist-binary-multiscale", "28x28 digits", *FIXED, source=BINARISED),
    "mnist-autoencoder": Entry("mnist-autoencoder", "28x28 digits like another", *MNIST, source="mnist"),
    "fashion": Entry("fashion", "28x28 clothes", *FASHION, source="fashion_mnist", unit="bits/dim"),
    "cifar10": Entry("cifar10-pixelcnn++-small", "32x32 photographs", *CIFAR, source="cifar10", unit="bits/dim"),
    "cifar10-class": Entry(
        *("cifar10-pixelcnn++-small", "32x32 photographs of a class", *CIFAR),
        source="cifar10",
        options=("--model.condition", "labels"),
        unit="bits/dim",
    ),
}


def source_of(entry: Entry) -> list[str]:
    """The option that names the data, where they are local."""
    if entry.source is None or DATA is None:
        return []
    return ["--data.source", str(Path(DATA) / entry.source)]


def train(name: str) -> None:
    """Train a model of the table, or go on with it."""
    entry, out = TABLE[name], RUNS / name
    begun = (out / "checkpoints" / "last.ckpt").exists()
    what = ["--resume"] if begun else [entry.recipe, *source_of(entry), *entry.options]
    words = ["-m", "nextpixel", "train", *what, "--out", str(out), "--report", "none"]
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT)


def bundle(name: str, run: Path) -> None:
    """Put the best weights of a run into the package, with their figures, facts and card."""
    entry, experiment = TABLE[name], read_experiment(run / "config.yaml")
    model, progress = load(run), json.loads((run / "progress.json").read_text(encoding="utf-8"))
    splits = load_splits(experiment.data)
    images, settings = splits.test, experiment.training
    of = settings.steps or settings.epochs * (len(splits.train) // settings.batch_size)
    evaluation = evaluate(model, images)
    in_nats = entry.unit == "nats"
    figure = evaluation.nats_per_image if in_nats else evaluation.bits_per_dim
    error = evaluation.nats_standard_error if in_nats else evaluation.bits_per_dim_standard_error
    command = " ".join(["nextpixel", "train", entry.recipe, *entry.options])
    facts = {
        "draws": entry.draws,
        "data": entry.data,
        "licence": entry.licence,
        "architecture": model.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "figure": round(figure, 4),
        "standard_error": round(error, 4),
        "unit": entry.unit,
        "images": len(images),
        "steps": progress["step"],
        "of": progress["step"] if progress["finished"] else of,
        "minutes": round(progress["seconds"] / 60, 1),
        "recipe": entry.recipe,
        "command": command,
        "commit": _commit(),
        "machine": machine_line(),
        "seed": experiment.training.seed,
        "date": datetime.date.today().isoformat(),
        "not_for": NOT_FOR,
    }
    source = read_recipe(entry.recipe)["data"]["source"]
    kept = replace(experiment, data=replace(experiment.data, source=source))
    stopped = "" if progress["finished"] else f" It was stopped after {facts['steps']:,} of {facts['of']:,} steps."
    notes = f"""## What it is

Draws {entry.draws}. Data: {entry.data}; licence: {entry.licence}. Made by `{command}` in {facts["minutes"]:.0f} minutes, seed
{facts["seed"]}, commit {facts["commit"]}, on {facts["machine"]}.{stopped}

{facts["figure"]} ± {facts["standard_error"]} {entry.unit}{" per image" if in_nats else ""} on {len(images):,} test images.

{NOT_FOR}
"""
    with replace_folder(HOME / name, (FACTS, "config.yaml", "marginal.npz", "model")) as aside:
        save(model, aside / "model", notes)
        kept.save(aside / "config.yaml")
        shutil.copyfile(run / "marginal.npz", aside / "marginal.npz")
        files = [path for path in sorted(aside.rglob("*")) if path.is_file()]
        facts["files"] = {path.relative_to(aside).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (aside / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{HOME / name}: {facts['figure']} ± {facts['standard_error']} {entry.unit}")


def _commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Train and bundle what is named, or the whole table in its order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TABLE)}; all, if none is given")
    parser.add_argument("--bundle", nargs=2, metavar=("NAME", "RUN"), help="bundle a run as far as it came")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in TABLE]:
        parser.error(f"unknown model {unknown[0]}: expected some of {', '.join(TABLE)}")
    if args.bundle:
        bundle(args.bundle[0], Path(args.bundle[1]))
        return
    for name in args.names or TABLE:
        train(name)
        bundle(name, RUNS / name)


if __name__ == "__main__":
    main()
