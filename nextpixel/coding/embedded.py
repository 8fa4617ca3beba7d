"""Which model an archive needs: its fingerprint, and the model itself as bytes, for archives that carry it."""

import hashlib
import json
import struct
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.utils._python_dispatch import TorchDispatchMode

from nextpixel.coding.identity import canonical, identity
from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import build, parts, untrained

_SIZE = struct.Struct("<I")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Calls of torch that the constructors of this library may make: some 18 for each weight of a PixelCNN, more where there are many
# channels, whose colour groups are cut one by one.
CALLS, CALLS_FOR_A_WEIGHT = 10_000, 20


def fingerprint(model: AutoregressiveModel) -> str:
    """SHA-256 of a model: its `identity` as canonical JSON, then of each weight, by name, name, type, shape and bytes.

    Example:
        >>> import nextpixel
        >>> models = [nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1) for _ in range(2)]
        >>> fingerprint(models[0]) == fingerprint(models[0]), fingerprint(models[0]) == fingerprint(models[1])
        (True, False)
    """
    config, weights = parts(model)
    found = hashlib.sha256(canonical(identity(config)))
    for name in sorted(weights):
        tensor = weights[name].cpu()
        found.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        found.update(tensor.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def pack_model(model: AutoregressiveModel) -> bytes:
    """A model as bytes: the size of its configuration, the configuration, and its weights in the safetensors format."""
    config, weights = parts(model)
    text = canonical(config)
    return _SIZE.pack(len(text)) + text + safetensors.torch.save({name: weight.cpu() for name, weight in weights.items()})


def count_weights(data: bytes, where: str) -> int:
    """How many weights the bytes of `pack_model` hold, by the head of the safetensors part: nothing is built for it.

    Raises:
        InputError: as `unpack_model`.
    """
    try:
        (size,) = _SIZE.unpack_from(data)
        (head,) = struct.unpack_from("<Q", data, _SIZE.size + size)
        start = _SIZE.size + size + 8
        if start + head > len(data):
            raise ValueError("its weights are cut off")
        return len(json.loads(data[start : start + head]))
    except (struct.error, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(where, error) from error


def unpack_model(data: bytes, where: str) -> AutoregressiveModel:
    """What `pack_model` packed.

    Raises:
        InputError: it is no model that this version can read.
    """
    try:
        (size,) = _SIZE.unpack_from(data)
        config = json.loads(data[_SIZE.size : _SIZE.size + size])
        weights = safetensors.torch.load(data[_SIZE.size + size :])
        for name, weight in weights.items():
            if weight.dtype not in _TYPES:
                raise ValueError(f"its weight {name} is of {weight.dtype}")
        # A configuration alone may ask for any amount of memory, or of time; that of the weights is that of the file. Whatever a
        # configuration counts has a byte of weights at least, but for rows, columns and levels, which have limits of their own.
        if not _sum_of_counts(config) <= len(data):
            raise ValueError("its configuration is larger than its weights")
        with torch.device("meta"), _AtMost(CALLS + CALLS_FOR_A_WEIGHT * len(weights)):
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
        raise _unreadable(where, error) from error
    for name, tensor in described.state_dict().items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise InputError(f"{where} holds a model whose weights do not fit its configuration: {name}")
    return build(config, weights, MODELS, where, where)


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(f"{where} holds a model that cannot be read: {' '.join(str(error).split())}")


def _sum_of_counts(value: Any, name: str = "") -> float:
    """The sum of all numbers in a configuration, without levels, rows and columns."""
    if isinstance(value, dict):
        return sum(_sum_of_counts(part, key) for key, part in value.items() if key != "levels")
    if isinstance(value, list):
        return sum(map(_sum_of_counts, value[:1] if name == "shape" else value))
    return abs(value) if isinstance(value, int | float) else 0


class _AtMost(TorchDispatchMode):
    """Where torch is called no more than so many times, by this thread: building a model takes time, whatever its size."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its configuration describes more weights than it holds")
        return func(*args, **(kwargs or {}))
