"""Training settings of each kind of run; imports nothing heavy, because the command line is parsed from them."""

from dataclasses import dataclass
from typing import Literal, get_type_hints

from nextpixel.errors import InputError, fits, spelled


@dataclass
class TrainingSettings:
    """How a model is trained.

    Args:
        epochs: Passes over the training images, where neither `steps` nor `minutes` limits the run.
        steps: Optimiser steps of the run, instead of epochs.
        minutes: Minutes of the run, instead of epochs; with `steps`, whichever comes first. Schedules follow the clock.
        batch_size: Images that pass through the network at once (on each device).
        accumulate: Batches whose mean gradient makes one optimiser step, where more would not fit into memory.
        optimizer: "adam", or "rmsprop" as in the PixelRNN paper.
        lr: Largest learning rate.
        betas: Adam's averaging factors.
        warmup: Steps over which the learning rate rises linearly to `lr`; at most a quarter of the run.
        schedule: After the warm-up: "constant", "cosine" (to zero at the last step) or "exponential".
        lr_decay: Factor per step of the exponential schedule.
        clip: Largest norm of the gradient of the loss in bits/dim; 0 does not clip.
        ema: Decay of the averaged weights that are evaluated and kept, min(ema, (1 + n) / (10 + n)) at step n; 0 averages
            nothing.
        precision: "bf16" (autocast), "float32", or "auto": bf16 where the device multiplies it faster.
        channels_last: Keep images and kernels as (B, H, W, C) in memory.
        recompute: Compute the inside of each block again for its gradient instead of keeping it: less memory, more time.
        compile: Compile network and likelihood for training steps (needs a C++ compiler; pays in long runs).
        eval_every: Epochs between validations, of which the best weights are kept; one comes at the end.
        sample_every: Epochs between sample grids, which follow a validation; 0 draws them at the end only.
        save_every: Minutes between checkpoints, which also follow each validation: what a lost machine can cost.
        log: Where figures go beside metrics.csv: "none", "tensorboard", or "wandb" (Weights & Biases).
        samples: Images in a grid.
        workers: Processes that load data; 0 loads in the main process.
        devices: Devices, each with a process, on each machine: a number or "auto" (all GPUs, or one process on the processor).
            Under torchrun and SLURM the number is theirs.
        nodes: Machines.
        seed: Of initial weights, order of images and samples.
        start: A run or model folder whose weights to begin with, of the same architecture.
        condition_dropout: Probability that an image of a batch loses its condition (h = 0), so that the model also learns the
            unconditional distribution, which guidance needs.
        stage: Train only this stage of a multiscale model (0 is the coarsest) and leave the weights of the others as they are;
            the loss is then its share of bits/dim.
    """

    epochs: int = 20
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["adam", "rmsprop"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 200
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    lr_decay: float = 0.999995
    clip: float = 1.0
    ema: float = 0.999
    precision: Literal["auto", "float32", "bf16"] = "auto"
    channels_last: bool = True
    recompute: bool = False
    compile: bool = False
    eval_every: int = 1
    sample_every: int = 5
    samples: int = 36
    save_every: float = 5.0
    log: Literal["none", "tensorboard", "wandb"] = "none"
    workers: int = 0
    devices: int | str = "auto"
    nodes: int = 1
    seed: int = 0
    start: str | None = None
    stage: int | None = None
    condition_dropout: float = 0.0

    def check(self) -> None:
        """Refuse values that no run can satisfy.

        Raises:
            InputError: a count below its minimum, or a rate outside its range.

        Example:
            >>> TrainingSettings(epochs=0).check()
            Traceback (most recent call last):
            nextpixel.errors.InputError: --training.epochs is 0: expected at least 1
        """
        for name, hint in get_type_hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                raise InputError(f"--training.{name} is {getattr(self, name)!r}: expected {spelled(hint)}")
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "samples", "nodes"):
            if getattr(self, name) < 1:
                raise InputError(f"--training.{name} is {getattr(self, name)}: expected at least 1")
        for name in ("warmup", "sample_every", "workers", "clip"):
            if getattr(self, name) < 0:
                raise InputError(f"--training.{name} is {getattr(self, name)}: expected at least 0")
        if self.stage is not None and self.stage < 0:
            raise InputError(f"--training.stage is {self.stage}: expected at least 0")
        if self.devices != "auto" and not (str(self.devices).isdecimal() and int(self.devices) > 0):
            raise InputError(f"--training.devices is {self.devices!r}: expected a number of at least 1, or auto")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"--training.lr is {self.lr}: expected a number above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"--training.betas is {list(self.betas)}: expected two numbers from 0 up to (not including) 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--training.seed is {self.seed}: expected from 0 to 2^63 - 1")
        if not 0 <= self.ema < 1:
            raise InputError(f"--training.ema is {self.ema}: expected from 0 up to (not including) 1")
        if not 0 <= self.condition_dropout < 1:
            given = f"--training.condition_dropout is {self.condition_dropout}"
            raise InputError(f"{given}: expected from 0 up to (not including) 1")
        if not 0 < self.lr_decay <= 1:
            raise InputError(f"--training.lr_decay is {self.lr_decay}: expected above 0 and at most 1")
        for name in ("steps", "minutes", "save_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--training.{name} is {value}: expected a number above 0")


@dataclass
class TripletSettings(TrainingSettings):
    """How an embedding network is trained; where these differ, they replace the others' meaning.

    Args:
        batch_size: Images per optimiser step (on each device): identities times `images_per_identity`.
        images_per_identity: Images of one identity in a batch, or all that it has.
        margin: By how much the squared distance of different identities must exceed that of the same one, between 0 and 4.
        mining: Triplets to learn from: "semi-hard" (the negative is farther than the positive, by less than the margin), "hard"
            (it is nearer), or "all" of both.
        eval_every: Epochs between validations, of which the weights with the largest area under the ROC curve are kept.
        clip: Largest norm of the gradient of the triplet loss; 0 does not clip.
    """

    batch_size: int = 128
    images_per_identity: int = 4
    margin: float = 0.2
    mining: Literal["semi-hard", "hard", "all"] = "semi-hard"
    sample_every: int = 0

    def check(self) -> None:
        """Refuse values that no run can satisfy, and settings of likelihood models.

        Raises:
            InputError: as in `TrainingSettings`; or a setting that an embedding network does not have is given.

        Example:
            >>> TripletSettings(stage=1).check()
            Traceback (most recent call last):
            nextpixel.errors.InputError: --training.stage is for likelihood models: an embedding network has none
        """
        super().check()
        for name in ("sample_every", "start", "stage", "recompute", "compile", "condition_dropout"):
            if getattr(self, name) != getattr(TripletSettings, name):
                raise InputError(f"--training.{name} is for likelihood models: an embedding network has none")
        if self.images_per_identity < 2:
            raise InputError(f"--training.images_per_identity is {self.images_per_identity}: expected at least 2")
        if self.batch_size < 2 * self.images_per_identity:
            least = f"at least two identities of {self.images_per_identity} images (--training.images_per_identity)"
            raise InputError(f"--training.batch_size is {self.batch_size}: expected {least}")
        if not 0 < self.margin < 4:
            raise InputError(f"--training.margin is {self.margin}: expected a number between 0 and 4")
