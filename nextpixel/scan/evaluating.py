"""Evaluation mode: a twin of a model that shares its weights, so that drawing does not change the mode of the model itself.

A model that is drawn from may be in training, in this thread or another, with some of its submodules frozen. Switching its mode
and back would change what other threads compute, and two draws at once would leave it switched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from nextpixel.errors import InputError
from nextpixel.layers.pointwise import without_autocast

Module = TypeVar("Module", bound=nn.Module)
WITHOUT_FLOAT64 = ("mps",)


@contextmanager
def drawing(model: Module) -> Iterator[Module]:
    """A model's twin in evaluation mode; inside the context there are no gradients, and a caller's autocast has no effect.

    Raises:
        InputError: the device has no float64.
    """
    weight = next(model.parameters())
    if weight.device.type in WITHOUT_FLOAT64:
        raise InputError(f"images are drawn with float64 numbers, which a device {weight.device.type} has not: give model.cpu()")
    with torch.no_grad(), without_autocast(weight):
        yield evaluating(model)


def evaluating(module: Module) -> Module:
    """A module in evaluation mode that shares the weights, buffers and settings of the given one, which is not changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
        >>> twin = evaluating(model)
        >>> twin.training, model.training, twin[0].weight is model[0].weight
        (False, True, True)
    """
    return _twin(module, {})


def _twin(module: Any, twins: dict[int, Any]) -> Any:
    if id(module) not in twins:
        twin = twins[id(module)] = object.__new__(type(module))
        # A compiled call would run the given module, in its mode.
        state = {**module.__dict__, "training": False, "_compiled_call_impl": None}
        for name, value in state.items():
            if isinstance(value, nn.Module):
                state[name] = _twin(value, twins)
        state["_modules"] = {name: None if child is None else _twin(child, twins) for name, child in module._modules.items()}
        twin.__dict__.update(state)
    return twins[id(module)]


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are infinite or NaN: what they draw could look like images.

    Raises:
        InputError: the first such parameter or buffer, by name.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.bias.data.fill_(float("nan"))
        >>> check_weights(layer)
        Traceback (most recent call last):
        nextpixel.errors.InputError: the model's bias is not finite: it holds nan
    """
    named = [(name, t.detach()) for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]
    # The largest magnitude of all weights is one number to test; it is NaN if any of them is.
    if torch.nn.utils.get_total_norm([t for _, t in named], float("inf")).isfinite():
        return
    for name, t in named:
        if not t.isfinite().all():
            raise InputError(f"the model's {name} is not finite: it holds {t[~t.isfinite()][0].item()}")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode; put every single module back into its own mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
