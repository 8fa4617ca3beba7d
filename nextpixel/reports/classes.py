"""The report's part on a class-conditional model: does it draw the class that it is told, and what does guidance change?"""

from dataclasses import dataclass
from pathlib import Path

import torch

from nextpixel.data.splits import Splits
from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.models import AutoregressiveModel
from nextpixel.pictures.grid import save_grid
from nextpixel.progress import rows_bar
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.sections import Section
from nextpixel.scoring.recognition import Classifier, Recognition, Strength, recognise_samples, sampled, sweep

SHOWN = 20  # samples in a row of the picture
PLOT, PICTURE = Path("samples") / "guidance.png", Path("samples") / "guidance-samples.png"
NO_GUIDANCE = """
Not measured: every training image came with its label (condition dropout 0), so the unconditional law, which guidance needs,
was not trained.
"""


@dataclass(frozen=True)
class Classes:
    """What a plain classifier sees in the samples of a class-conditional model.

    Args:
        names: of the classes.
        real: what it sees in test images, which is the most that samples like them can reach.
        drawn: what it sees in samples.
        strengths: the same, and the likelihood of test images, under guidance; empty where the unconditional law was not trained.
    """

    names: list[str]
    real: Recognition
    drawn: Recognition
    strengths: list[Strength]


def judge_classes(
    model: AutoregressiveModel, splits: Splits, training: TrainingSettings, out: Path
) -> tuple[Classes | None, Section]:
    """Train the classifier, draw samples and recognise them; with condition dropout also under guidance, with its two pictures.

    Args:
        model: whose condition is `Labels`, of symbols with an order: in codes there is no picture to recognise.
        splits: the classifier is trained on the training images, and it and the model's likelihood are measured on test images.
        training: its seed is that of the noise; its condition dropout tells whether guidance means anything.
        out: the run folder.

    Returns:
        What was found, or None where no classifier can be trained (one class, or more than 100); and what the report says.
    """
    try:
        classifier = Classifier.fit(splits.train, seed=training.seed)
    except InputError as error:
        reason = f"Whether samples are of the wanted class was not measured: {error}."
        return None, Section(f"\n{reason}\n", [reason], [])
    strengths: list[Strength] = []
    if training.condition_dropout > 0:
        strengths = sweep(model, classifier, splits.test, seed=training.seed)
        drawn = next(line.recognition for line in strengths if line.guidance == 1)
    else:
        with rows_bar("drawing samples of every class", model.scan_rows(sampled(classifier.classes))) as progress:
            _, drawn = recognise_samples(model, classifier, training.seed, progress=progress)
    names = splits.train.class_names or [str(k) for k in range(classifier.classes)]
    classes = Classes(list(names), classifier.recognise_images(splits.test), drawn, strengths)
    if strengths:
        draw_guidance(classes, out / PLOT)
        rows = torch.cat([line.samples[:SHOWN] for line in strengths])
        save_grid(rows, model.levels, out / PICTURE, columns=len(rows) // len(strengths))
    return classes, classes_section(classes)


def classes_section(classes: Classes) -> Section:
    """The part of the report."""
    drawn, real = classes.drawn, classes.real
    rows = ["| class | samples recognised | of | most often taken for | test images recognised |", "|---|---|---|---|---|"]
    for k, name in enumerate(classes.names):
        number, mistake = int(drawn.confusion[k].sum()), drawn.mistake(k)
        mostly = "" if mistake is None else f"{classes.names[mistake[0]]} ({mistake[1]})"
        rows.append(f"| {name} | {drawn.per_class[k]:.3f} | {number} | {mostly} | {real.per_class[k]:.3f} |")
    rows.append(f"| **all** | **{_share(drawn)}** | {len(drawn.wanted)} | | {_share(real)} |")
    table = "\n".join(rows)
    markdown = f"""
## Are samples of the wanted class?

{table}

What a plain classifier sees in samples (temperature 1, no guidance) and in {len(real.wanted)} test images. It is trained on real
training images: principal components, and a support vector machine. What it reaches on test images is the most that samples
like them can reach. The share says nothing of variety: one good picture of each class, again and again, would pass.

## Guidance
{_guidance(classes) if classes.strengths else NO_GUIDANCE}"""
    lines = [f"recognised {_share(drawn)} of {len(drawn.wanted)} samples, {_share(real)} of {len(real.wanted)} test images"]
    lines += [
        f"guidance {line.guidance:g}: recognised {_share(line.recognition)}, {_bits(line)} bits/dim" for line in classes.strengths
    ]
    return Section(markdown, lines, [PLOT, PICTURE] if classes.strengths else [])


def _guidance(classes: Classes) -> str:
    rows = ["| strength | samples recognised | bits/dim of test images |", "|---|---|---|"]
    table = "\n".join(
        rows + [f"| {line.guidance:g} | {_share(line.recognition)} | {_bits(line)} |" for line in classes.strengths]
    )
    strengths, scored = classes.strengths, len(classes.strengths[0].evaluation.nats)
    return f"""
![guidance]({PLOT.as_posix()})

{table}

Strength 0 is the unconditional model, which knows no label, 1 is the model itself. Each symbol is drawn from
p(. | earlier, label)^s p(. | earlier)^(1 - s), renormalised, and bits/dim are of this law: {scored} test images,
the same at every strength, so differences between strengths are known better than ± says.

![samples under guidance]({PICTURE.as_posix()})

From top to bottom strengths {", ".join(f"{line.guidance:g}" for line in strengths)}; a column has one noise and one wanted class.
"""


def draw_guidance(classes: Classes, path: str | Path) -> None:
    """Draw class accuracy and bits/dim against the strength of guidance, side by side.

    Raises:
        InputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen

    strengths = [line.guidance for line in classes.strengths]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = [line.recognition for line in classes.strengths]
    left.errorbar(strengths, [r.accuracy for r in seen], [r.standard_error for r in seen], fmt="o-", capsize=3, label="samples")
    ceiling = classes.real.accuracy
    left.axhline(ceiling, linestyle="--", linewidth=1, color="tab:green", label=f"test images: {ceiling:.3f}")
    left.set(xlabel="strength of guidance", ylabel="share of the wanted class", ylim=(0, 1.03))
    scores = [line.evaluation for line in classes.strengths]
    bits, errors = [e.bits_per_dim for e in scores], [e.bits_per_dim_standard_error for e in scores]
    right.errorbar(strengths, bits, errors, fmt="o-", capsize=3, color="tab:orange", label=f"{len(scores[0].nats)} test images")
    for name, strength, colour in (("the unconditional model", 0, "tab:grey"), ("the model itself", 1, "tab:blue")):
        value = bits[strengths.index(strength)]
        right.plot(strength, value, "o", color=colour, zorder=3, label=f"{name}: {value:.3f}")
    right.set(xlabel="strength of guidance", ylabel="bits/dim")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def _share(recognition: Recognition) -> str:
    return f"{recognition.accuracy:.3f} ± {recognition.standard_error:.3f}"


def _bits(line: Strength) -> str:
    return f"{line.evaluation.bits_per_dim:.4f} ± {line.evaluation.bits_per_dim_standard_error:.4f}"
