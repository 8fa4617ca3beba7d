"""The kinds of runs: what differs between them, registered by name and imported when it is first used.

A kind is one entry of `KINDS`. The trainer, the loop, config files and the command line look it up by the name of the model.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of run. Entries are places of objects, "module:name": reading a config imports none of them but the settings.

    Args:
        settings: the class of its training settings.
        networks: what it trains, a dictionary from names to classes, whose constructors' arguments are options of `train`.
        train: (experiment, out, resume, console, report, own_process) -> result, trains and reports.
        report: (out, console, report, own_process) -> result, reports on a run that has been trained.
        evaluate: (args, console) -> None, prints the figures of a split for `nextpixel evaluate`.
        conditioned: whether `--model.condition` is an option of its networks.
    """

    settings: str
    networks: str
    train: str
    report: str
    evaluate: str
    conditioned: bool = False

    def load(self, entry: str) -> Any:
        """The object of an entry.

        Example:
            >>> kind_of("embedding").load("settings").__name__, kind_of("pixelcnn").load("settings").__name__
            ('TripletSettings', 'TrainingSettings')
        """
        module, _, name = getattr(self, entry).partition(":")
        return getattr(import_module(module), name)


LIKELIHOOD = Kind(
    settings="nextpixel.recipes.settings:TrainingSettings",
    networks="nextpixel.models:MODELS",
    train="nextpixel.likelihood_run:train",
    report="nextpixel.likelihood_run:write_report",
    evaluate="nextpixel.cli.evaluate:evaluate_likelihood",
    conditioned=True,
)
# By the names of their networks; every other name is one of `nextpixel.models`.
KINDS = {
    "embedding": Kind(
        settings="nextpixel.identities.settings:TripletSettings",
        networks="nextpixel.identities.network:NETWORKS",
        train="nextpixel.identities.triplets:train_embedding",
        report="nextpixel.identities.triplets:write_embedding_report",
        evaluate="nextpixel.cli.evaluate:evaluate_identities",
    ),
}


def kind_of(model: Any) -> Kind:
    """The kind of run that trains a model of this name; of an unknown one, `networks` tells which there are."""
    return KINDS.get(model, LIKELIHOOD) if isinstance(model, str) else LIKELIHOOD
