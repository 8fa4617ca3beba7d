"""Which model an archive needs: its fingerprint, and the model itself as bytes, for archives that carry it."""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.nn.modules.module import register_module_parameter_registration_hook

from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import build, parts, untrained

_SIZE = struct.Struct("<I")


def fingerprint(model: AutoregressiveModel) -> str:
    """SHA-256 of a model: its configuration as canonical JSON, then of each weight, by name, name, type, shape and bytes.

    Example:
        >>> import nextpixel
        >>> models = [nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1) for _ in range(2)]
        >>> fingerprint(models[0]) == fingerprint(models[0]), fingerprint(models[0]) == fingerprint(models[1])
        (True, False)
    """
    config, weights = parts(model)
    found = hashlib.sha256(_canonical(config))
    for name in sorted(weights):
        tensor = weights[name].cpu()
        found.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]))
        found.update(tensor.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def pack_model(model: AutoregressiveModel) -> bytes:
    """A model as bytes: the size of its configuration, the configuration, and its weights in the safetensors format."""
    config, weights = parts(model)
    text = _canonical(config)
    return _SIZE.pack(len(text)) + text + safetensors.torch.save({name: weight.cpu() for name, weight in weights.items()})


def unpack_model(data: bytes, where: str) -> AutoregressiveModel:
    """What `pack_model` packed.

    Raises:
        InputError: it is no model that this version can read.
    """
    try:
        (size,) = _SIZE.unpack_from(data)
        config = json.loads(data[_SIZE.size : _SIZE.size + size])
        weights = safetensors.torch.load(data[_SIZE.size + size :])
        # A configuration alone may ask for any amount of memory, or of time; that of the weights is that of the file. Whatever a
        # configuration counts has a byte of weights at least, but for rows, columns and levels, which have limits of their own.
        if not _sum_of_counts(config) <= len(data):
            raise ValueError("its configuration is larger than its weights")
        with torch.device("meta"), _at_most(len(weights)):
            described = untrained(config, MODELS, where)
    except (
        struct.error,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise InputError(f"{where} holds a model that cannot be read: {' '.join(str(error).split())}") from error
    for name, tensor in described.state_dict().items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise InputError(f"{where} holds a model whose weights do not fit its configuration: {name}")
    return build(config, weights, MODELS, where, where)


def _sum_of_counts(value: Any, name: str = "") -> float:
    """The sum of all numbers in a configuration, without levels, rows and columns."""
    if isinstance(value, dict):
        return sum(_sum_of_counts(part, key) for key, part in value.items() if key != "levels")
    if isinstance(value, list):
        return sum(map(_sum_of_counts, value[:1] if name == "shape" else value))
    return abs(value) if isinstance(value, int | float) else 0


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Where a module cannot get more parameters than so many, whatever its configuration says: building them takes time."""
    registered = count(1)

    def note(*_: Any) -> None:
        if next(registered) > parameters:
            raise ValueError("its configuration describes more weights than it holds")

    handle = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
