"""Which model an archive needs: its fingerprint, and the model itself as bytes, for archives that carry it."""

import hashlib
import json
import struct

import safetensors.torch
import torch
from safetensors import SafetensorError

from nextpixel.coding.identity import canonical, identity
from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import build, parts

_SIZE = struct.Struct("<I")


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
    except (struct.error, ValueError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
        raise _unreadable(where, error) from error
    if not isinstance(config, dict):
        raise _unreadable(where, TypeError("its configuration is no JSON object"))
    # Memory and time of what a configuration describes are bounded by its weights, which are those of the file.
    return build(config, weights, MODELS, f"the model in {where}", f"the model in {where}")


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(f"{where} holds a model that cannot be read: {' '.join(str(error).split())}")
