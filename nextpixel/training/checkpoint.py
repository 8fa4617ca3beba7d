"""What a run keeps on the disk so that it can go on: checkpoints/{last,best}.ckpt and progress.json, each whole or not there."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nextpixel.errors import InputError
from nextpixel.files import write_aside

FORMAT = 1
LAST, BEST, PROGRESS = Path("checkpoints") / "last.ckpt", Path("checkpoints") / "best.ckpt", Path("progress.json")

Phase = Literal["train", "validate", "draw"]


@dataclass(frozen=True)
class Place:
    """Where a run is.

    Args:
        step: optimiser steps taken.
        epoch: passes over the training images that are finished.
        batch: batches of the next pass that are used up.
        phase: what comes next: training steps, or what follows a pass (validation, then a sample grid).
        drawn: the epoch of the last sample grid.
        validated: the step of the last validation; a run is not finished before its last step is validated.

    Example:
        >>> Place(step=44, epoch=1).words(epochs=20)
        'epoch 1 of 20'
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    phase: Phase = "train"
    drawn: int = 0
    validated: int = -1

    def words(self, epochs: int | None) -> str:
        """In words; of a run whose length is given in steps or minutes, the step."""
        return f"step {self.step}" if epochs is None else f"epoch {self.epoch} of {epochs}"

    def moved(self, **changes: Any) -> "Place":
        return replace(self, **changes)


@dataclass(frozen=True)
class Progress:
    """What a run has done so far: progress.json, for reports and for those who load a model from an unfinished run.

    Args:
        finished: whether training is over.
        place: of the run, in words.
        best: of the weights in RUN/model, in words.
        step: optimiser steps taken.
        images_per_step: on all processes.
        processes: that train.
        precision: of the training steps, "bf16-mixed" or "32-true".
        device: that trains, "cpu" or "cuda".
        seconds: in training steps, with those that were waited for data.
        loading: of these, those waited for data.
        images: that were trained on, over all passes.
    """

    finished: bool
    place: str
    best: str
    step: int
    images_per_step: int
    processes: int
    precision: str
    device: str
    seconds: float
    loading: float
    images: int

    def write(self, out: Path) -> None:
        """Write RUN/progress.json.

        Raises:
            InputError: the file cannot be written.
        """
        with write_aside(out / PROGRESS) as aside:
            aside.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, out: Path) -> "Progress":
        """Read RUN/progress.json.

        Raises:
            InputError: there is none, or it holds something else.
        """
        try:
            return cls(**json.loads((out / PROGRESS).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"{out} is no run with checkpoints: cannot read {PROGRESS}: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{out / PROGRESS} does not hold the progress of a run: {' '.join(str(error).split())}") from error


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint.

    Raises:
        InputError: it cannot be written; the one that was there stays whole.
    """
    with write_aside(path) as aside:
        try:
            torch.save({"format": FORMAT, **state}, aside)
        except RuntimeError as error:  # torch's writer hides the system's reason
            raise InputError(f"cannot write {path}: {_reason(aside, error)}") from error


def _reason(aside: Path, error: RuntimeError) -> str:
    """Why torch could not write: its error has no reason, so a few bytes are written in the same place."""
    try:
        with open(aside.with_name(f".{aside.name}.probe"), "wb") as probe:
            probe.write(b"0" * (1 << 16))
    except OSError as found:
        return found.strerror or str(found)
    finally:
        aside.with_name(f".{aside.name}.probe").unlink(missing_ok=True)
    return " ".join(str(error).split())[:200]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        InputError: there is none, or one of another version or another program; the message gives the way out.
    """
    run = path.parent.parent
    if not path.is_file():
        raise InputError(f"{run} has no {path.relative_to(run)} to go on from: remove the folder and train again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is no checkpoint of a run: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        old = isinstance(state, dict) and "pytorch-lightning_version" in state
        what = "was written by an earlier version of nextpixel" if old else "is no checkpoint of this version"
        raise InputError(f"{path} {what}: begin a new run with its weights, nextpixel train ... --training.start {run} --out NEW")
    return state


def generators() -> dict[str, Tensor]:
    """The states of torch's random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: dict[str, Tensor]) -> None:
    """Put torch's random generators back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def read_best(out: Path) -> dict[str, Any]:
    """The best weights of a run so far: {"weights", "raw" (not averaged, or None), "words", "value"}.

    Raises:
        InputError: none have been validated yet.
    """
    if not (out / BEST).is_file():
        raise InputError(f"{out} has not been validated yet: go on with nextpixel train --out {out} --resume")
    return read_checkpoint(out / BEST)
