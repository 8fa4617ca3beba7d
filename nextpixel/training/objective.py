"""What a run minimises, and by what it is judged: each kind of run is an objective, of one loop (nextpixel.training.loop)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.conditions import cond_of, sees_known
from nextpixel.conditions.known import given_symbols
from nextpixel.data.images import Images
from nextpixel.data.masks import Masks
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel, MultiScale
from nextpixel.models.storage import save
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.batches import Batch, in_order, to_device
from nextpixel.training.processes import Agreement

Report = Callable[[int, int], None]  # called with the number of batches done, and of all


class Objective(nn.Module, ABC):
    """A network and its loss.

    Attributes:
        loss_name: the column of the training loss.
        metric: the column of the validation figure that chooses the best weights.
        larger_is_better: how it chooses.
        loss_unit, metric_unit: in words, for people.
        train_columns, validation_columns: of metrics.csv.

    Args:
        network: what is trained.
        settings: how.
    """

    loss_name: str
    metric: str
    larger_is_better = False
    loss_unit: str
    metric_unit: str
    train_columns: tuple[str, ...] = ()
    validation_columns: tuple[str, ...]

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch on the network's device, a scalar that is minimised."""

    @abstractmethod
    def validate(self, network: nn.Module, images: Images, agreement: Agreement, report: Report) -> dict[str, float]:
        """The validation figures of a network of the same form (such as averaged weights), the same in all processes."""

    @abstractmethod
    def save(self, network: nn.Module, folder: Path, notes: str) -> None:
        """Write a network as a model folder."""

    def figures(self) -> dict[str, float]:
        """Further figures of the last batch, by their columns."""
        return {}

    def better(self, value: float, best: float | None) -> bool:
        """Whether a validation figure is the best so far; nan never is."""
        if best is None:
            return not math.isnan(value)
        return value > best if self.larger_is_better else value < best


class Likelihood(Objective):
    r"""Minimises bits/dim, the mean over images and dimensions: :math:`-\log_2 p(x) / D`.

    The loss's scale decides what Adam's epsilon and the gradient's norm mean: it is bits per dimension everywhere, so that one
    set of settings serves 8x8 and 64x64 images.

    Of a model whose condition is `Known`, or has it as a part, each training image gets a mask, drawn anew at every access, and
    the loss is bits per unknown number: :math:`-\log_2 p(x_{\text{unknown}} \mid x_{\text{known}})` of a batch divided by the
    number of unknown symbols. In validation the masks are always the same.

    Args:
        network: any model of the registry.
        settings: how to train it. With a stage, the loss is this stage's share of bits/dim (the shares of all stages add up to
            the whole), and the weights of the others get no gradient. With a dropout of the condition, each image of a training
            batch is unconditional, h = 0, with this probability; in validation none is.
        masks: the kinds of masks (`nextpixel.data.masks`), for a model with `Known`; by default all.

    Raises:
        InputError: a stage that the model does not have, or a dropout of a condition that it does not have, or masks that it does
            not read.
    """

    loss_name = "train/bits_per_dim"
    metric = "val/bits_per_dim"
    loss_unit = metric_unit = "bits/dim"
    validation_columns = (metric,)
    network: AutoregressiveModel

    def __init__(self, network: AutoregressiveModel, settings: TrainingSettings, masks: Sequence[str] | None = None) -> None:
        super().__init__(network, settings)
        if masks is not None and not sees_known(network.condition):
            raise InputError("--data.masks are for a model with --model.condition known, which reads what they leave")
        self.masks = Masks(masks, network.shape) if sees_known(network.condition) else None
        if self.masks and settings.stage is not None:
            raise InputError("--training.stage and --model.condition known: expected one of them; train all stages at once")
        if settings.condition_dropout and network.condition is None:
            given = f"--training.condition_dropout is {settings.condition_dropout}"
            raise InputError(f"{given}, but this {network.name} has no condition")
        if settings.stage is not None:
            stages = len(network.strides) if isinstance(network, MultiScale) else 0
            if settings.stage >= stages:
                has = f"the stages 0 to {stages - 1}" if stages else "no stages"
                raise InputError(f"--training.stage is {settings.stage}, but this {network.name} has {has}")
            network.requires_grad_(False)
            for parameter in network.stage_parameters(settings.stage):
                parameter.requires_grad_(True)
        for part in network.modules():
            if isinstance(part, AutoregressiveModel):  # a multi-scale model's stages too
                part.recompute = settings.recompute
        # Compiled as one: the likelihood of a mixture costs as much in separate calls as a network layer. Validation is not: its
        # own graphs (no gradients, a short last batch) take minutes to compile, and it sees few images.
        self.loss = torch.compile(self.bits_per_dim) if settings.compile else self.bits_per_dim

    def bits_per_dim(self, batch: Batch, kept: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Mean bits/dim of a batch, or the trained stage's share of it, under the caller's precision.

        `kept`, bool (B,), marks the images that keep their condition; by default all. `known`, bool (B, C, H, W), marks the
        symbols that are given, and the mean is over the others.
        """
        bits, count = self._bits(self.network, batch, kept, known)
        return bits / count

    def _bits(
        self, network: AutoregressiveModel, batch: Batch, kept: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor | int]:
        """The bits of a batch, and of how many numbers they are."""
        x, labels = batch
        cond = cond_of(network.condition, x, labels)
        if known is not None:
            params = network(x, network.condition.join(cond, given_symbols(x, known)), kept)
            nats = -torch.where(known, 0, network.likelihood.log_prob_each(params, x))
        elif self.settings.stage is None:
            nats = -network.likelihood.log_prob(network(x, cond, kept), x)
        else:
            nats = -network.stage_log_prob(self.settings.stage, x, cond, kept)
        return nats.sum() / math.log(2), x.numel() if known is None else (~known).sum()

    def forward(self, batch: Batch) -> Tensor:
        kept = known = None
        size, device = len(batch[0]), batch[0].device
        # Drawn outside the compiled loss, so that it is the same with and without.
        if self.settings.condition_dropout:
            kept = torch.rand(size, device=device) >= self.settings.condition_dropout
        if self.masks:
            known = self.masks.draw(torch.randint(2**62, (size,)).tolist()).to(device)
        return self.loss(batch, kept, known)

    def validate(self, network: AutoregressiveModel, images: Images, agreement: Agreement, report: Report) -> dict[str, float]:
        size, device = self.settings.batch_size, next(network.parameters()).device
        sums, number = torch.zeros(2, dtype=torch.float64), -(-len(images) // size)
        batches = in_order(images, size, lambda k: k % agreement.world == agreement.rank)
        for first in range(0, number, agreement.world):  # each process takes one of the next `world` batches, if there is one
            if first + agreement.rank < number:
                x, labels = to_device(next(batches), device)
                place = (first + agreement.rank) * size
                known = self.masks.draw(range(place, place + len(x))).to(device) if self.masks else None
                bits, count = self._bits(network, (x, labels), known=known)
                sums += torch.tensor([bits.item(), int(count)], dtype=torch.float64)
            report(min(number, first + agreement.world), number)
        total, count = agreement.sums(sums).tolist()
        return {self.metric: total / count}

    def save(self, network: AutoregressiveModel, folder: Path, notes: str) -> None:
        save(network, folder, notes)


def optimise(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of the parameters that get a gradient; its learning rate is set before each step."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return torch.optim.Adam(trained, settings.lr, settings.betas, fused=True)  # one call: a seventh of the time on a CPU
    return torch.optim.RMSprop(trained, settings.lr, alpha=0.95)


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
