"""The one training loop's content: loss, optimiser and schedule; lightning runs it."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from nextpixel.condition import cond_of
from nextpixel.errors import InputError
from nextpixel.models import AutoregressiveModel, MultiScale
from nextpixel.training.settings import TrainingSettings


class NonFiniteLossError(RuntimeError):
    """The loss is infinite or not a number; raised before the step that would spoil the weights is taken."""


class Module(pl.LightningModule):
    """What the training of every kind of model shares: optimiser, schedule, and the limit on the gradient.

    Args:
        model: what is trained.
        settings: how.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("lr", optimizer.param_groups[0]["lr"])

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # lightning's own refuses fused optimisers, for the sake of a gradient scaler that bf16 does not have.
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> dict[str, Any]:
        return make_optimizer(self.model, self.settings, int(self.trainer.estimated_stepping_batches))


class ImageModule(Module):
    """Minimises bits/dim, the mean over images and dimensions.

    The loss's scale decides what Adam's epsilon and the gradient's norm mean: it is bits per dimension everywhere, so that one
    set of settings serves 8x8 and 64x64 images.

    Args:
        model: any model of the registry.
        settings: how to train it. With a stage, the loss is this stage's share of bits/dim (the shares of all stages add up to
            the whole), and the weights of the others want no gradient. With a dropout of the condition, each image of a training
            batch is unconditional, h = 0, with this probability; in validation none is.

    Raises:
        InputError: a stage that the model does not have, or a dropout of a condition that it does not have.
    """

    def __init__(self, model: AutoregressiveModel, settings: TrainingSettings) -> None:
        super().__init__(model, settings)
        if settings.condition_dropout and model.condition is None:
            given = f"--training.condition_dropout is {settings.condition_dropout}"
            raise InputError(f"{given}, but this {model.name} has no condition")
        if settings.stage is not None:
            stages = len(model.strides) if isinstance(model, MultiScale) else 0
            if settings.stage >= stages:
                has = f"the stages 0 to {stages - 1}" if stages else "no stages"
                raise InputError(f"--training.stage is {settings.stage}, but this {model.name} has {has}")
            model.requires_grad_(False)
            for parameter in model.stage_parameters(settings.stage):
                parameter.requires_grad_(True)
        for part in model.modules():
            if isinstance(part, AutoregressiveModel):  # a multi-scale model's stages too
                part.recompute = settings.recompute
        # Compiled as one: the likelihood of a mixture costs as much in separate calls as a network layer. Validation is not: its
        # own graphs (no gradients, a short last batch) take minutes to compile, and it sees few images.
        self.loss = torch.compile(self.bits_per_dim) if settings.compile else self.bits_per_dim

    def bits_per_dim(self, batch: tuple[Tensor, Tensor | None], kept: Tensor | None = None) -> Tensor:
        """Mean bits/dim of a batch (images, labels), or the trained stage's share of it, under the caller's precision.

        `kept`, bool (B,), says which images keep their condition; by default all.
        """
        x, labels = batch
        cond = cond_of(self.model.condition, x, labels)
        if self.settings.stage is None:
            nats = -self.model.likelihood.log_prob(self.model(x, cond, kept), x)
        else:
            nats = -self.model.stage_log_prob(self.settings.stage, x, cond, kept)
        return nats.sum() / (x.numel() * math.log(2))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> Tensor:
        kept = None
        if self.settings.condition_dropout:  # drawn outside the compiled loss, so that it is the same with and without
            kept = torch.rand(len(batch[0]), device=batch[0].device) >= self.settings.condition_dropout
        loss = self.loss(batch) if kept is None else self.loss(batch, kept)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss is {loss.item()} at step {self.global_step}")
        self.log("train/bits_per_dim", loss, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        self.log("val/bits_per_dim", self.bits_per_dim(batch), batch_size=len(batch[0]), sync_dist=True)


def make_optimizer(model: nn.Module, settings: TrainingSettings, total: int) -> dict[str, Any]:
    """Optimiser and schedule over `total` steps, in lightning's form; what wants no gradient is left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(trained, settings.lr, settings.betas, fused=True)  # one call: a seventh of the time on a CPU
    else:
        optimizer = torch.optim.RMSprop(trained, settings.lr, alpha=0.95)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(settings, step, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(settings: TrainingSettings, step: int, total: int) -> float:
    """What `lr` is multiplied with at a step: the linear warm-up times the schedule.

    Example:
        >>> settings = TrainingSettings(warmup=10, schedule="cosine")
        >>> [round(learning_rate_factor(settings, step, total=110), 3) for step in (0, 9, 60, 110)]
        [0.1, 1.0, 0.5, 0.0]
    """
    warmup = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "exponential":
        return warmup * settings.lr_decay**step
    if settings.schedule == "cosine":
        done = max(0, step - settings.warmup) / max(1, total - settings.warmup)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return warmup
