"""The end of an embedding network's run: verification on identities never seen, its pictures, and report.md."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from nextpixel.data.identities import describe_single
from nextpixel.data.splits import Splits
from nextpixel.embedding.drawing import draw_neighbours, draw_roc
from nextpixel.embedding.network import EmbeddingNetwork
from nextpixel.embedding.storage import load_embedding, save_embedding
from nextpixel.embedding.verification import RESAMPLES, Verification, embed_images, verify
from nextpixel.files import write_text
from nextpixel.machine import machine_line
from nextpixel.models.storage import load_weights
from nextpixel.training.checkpoint import BEST, Progress
from nextpixel.training.experiment import Experiment
from nextpixel.training.report import data_line, read_best
from nextpixel.training.throughput import describe_speed


def finish_embedding(experiment: Experiment, out: Path, splits: Splits, done: Progress, console: Console) -> list[Verification]:
    """Verify the best weights on the test identities, write pictures and report, add the figures to RUN/model's card, print them.

    Raises:
        InputError: no weights have been validated yet, or something cannot be written.
    """
    best, device = read_best(out), torch.device(done.device if torch.cuda.is_available() else "cpu")
    network = load_embedding(out / "model").to(device)
    unaveraged = []
    if best["raw"] is not None:
        load_weights(network, best["raw"], out / BEST)
        unaveraged = [verify(network, splits.test)[0].renamed("embedding, weights not averaged")]
    load_weights(network, best["weights"], out / BEST)
    network.eval()
    own, pixels = verify(network, splits.test)
    result = [own, *unaveraged, pixels]
    draw_roc([own, pixels], out / "samples" / "roc.png")
    draw_neighbours(splits.test, embed_images(network, splits.test), out / "samples" / "neighbours.png")
    figures = _figures(result)
    speed = describe_speed(lambda: network(splits.train.tensor([0, 1]).to(device)).sum(), 2, done)
    write_text(out / "report.md", _report(experiment, result, network, splits, done, best["words"], figures, speed))
    notes = f"## Verification\n\n{figures}\n\nThe weights of {best['words']}. Data: {_identities(experiment, splits)}"
    save_embedding(network.cpu(), out / "model", notes=notes)
    print_verifications("test", result, console)
    for name in ("samples/roc.png", "samples/neighbours.png", "report.md"):
        console.print(str(out / name), highlight=False, soft_wrap=True)
    return result


def print_verifications(name: str, verifications: list[Verification], console: Console) -> None:
    """The figures of each score, and below them the pairs that they are of."""
    table = Table(name, "ROC AUC", "equal error rate", box=None, pad_edge=False)
    for k, verification in enumerate(verifications):
        table.add_row(verification.name, *_rounded(verification), style="bold" if k == 0 else None)
    console.print(table)
    console.print(verifications[0].pairs.describe(), highlight=False, soft_wrap=True)


def _rounded(verification: Verification) -> tuple[str, str]:
    auc, eer = verification.standard_errors
    return f"{verification.roc_auc:.4f} ± {auc:.4f}", f"{verification.equal_error_rate:.4f} ± {eer:.4f}"


def _figures(verifications: list[Verification]) -> str:
    rows = ["| | ROC AUC | equal error rate |", "|---|---|---|"]
    for k, verification in enumerate(verifications):
        name = f"**{verification.name}**" if k == 0 else verification.name
        rows.append(f"| {name} | {' | '.join(_rounded(verification))} |")
    return "\n".join([*rows, "", f"Test: {verifications[0].pairs.describe()}."])


def _identities(experiment: Experiment, splits: Splits) -> str:
    """The data, and how many identities each split has."""
    train, validation, test = (len(splits[name].labels.unique()) for name in ("train", "validation", "test"))
    disjoint = f"{train} training, {validation} validation and {test} test identities, none of them in two splits"
    return "; ".join(
        [data_line(experiment, splits), disjoint, *filter(None, (describe_single(splits[n]) for n in ("train", "test")))]
    )


def _report(
    experiment: Experiment,
    result: list[Verification],
    network: EmbeddingNetwork,
    splits: Splits,
    done: Progress,
    words: str,
    figures: str,
    speed: str,
) -> str:
    training = experiment.training
    settings = ", ".join(f"{name} {value}" for name, value in experiment.model.items() if name != "name")
    return f"""# {experiment.recipe}: {network.name}

{experiment.about.strip()}

{figures}

Verification asks of two images whether they are of the same identity, by the squared distance of their embeddings; the baseline
uses the squared distance of their symbols on the same pairs. No test identity was seen in training. Same: all pairs of images of
an identity, or equally many random ones of each where they are too many; different: random pairs of identities, an image of each.
± is the standard error of a bootstrap over identities ({RESAMPLES} resamples; rough where they are few). The weights are those of
{words}, the best ROC AUC on the validation identities{"" if done.finished else " so far: the run is not finished"}.

![ROC curves](samples/roc.png)

![neighbours](samples/neighbours.png)

Test images (grey) and those with the nearest embeddings in the test split: green is the same identity, orange another.

- Data: {_identities(experiment, splits)}.
- Model: {network.name}, {sum(p.numel() for p in network.parameters()):,} parameters; {settings or "default sizes"}.
- Training: {done.step} steps of {done.images_per_step} images, at most {training.images_per_identity}
  of an identity, {training.mining} triplets, margin {training.margin:g}, {done.precision},
  {done.seconds / 60:.1f} minutes: {speed}.
- Machine: {machine_line()}.
"""
