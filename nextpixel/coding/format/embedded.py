"""The model of an archive: its fingerprint, and the model itself as bytes, for archives that carry it.

An archive outlives the library that made it. So its fingerprint must not depend on which arguments a constructor happens to
have: it covers the name, the weights, and the arguments that differ from their defaults. An argument that is added later, and
left at its default, describes the same network as before. The defaults are those of format 3, frozen in `DEFAULTS`: a
constructor's default may change later, and the fingerprint of a model does not change with it.
"""

import hashlib
import inspect
import json
import struct
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from nextpixel.conditions import CONDITIONS
from nextpixel.errors import InputError
from nextpixel.models import MODELS, AutoregressiveModel
from nextpixel.models.storage import build, config_and_weights

_SIZE = struct.Struct("<I")


def fingerprint(model: AutoregressiveModel) -> str:
    """SHA-256 of a model: its `identity` as canonical JSON, then of each weight, by name, name, type, shape and bytes.

    Example:
        >>> import nextpixel
        >>> models = [nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1) for _ in range(2)]
        >>> fingerprint(models[0]) == fingerprint(models[0]), fingerprint(models[0]) == fingerprint(models[1])
        (True, False)
    """
    config, weights = config_and_weights(model)
    found = hashlib.sha256(canonical(identity(config)))
    for name in sorted(weights):
        tensor = weights[name].cpu()
        found.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        found.update(tensor.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def pack_model(model: AutoregressiveModel) -> bytes:
    """A model as bytes: the size of its configuration, the configuration, and its weights in the safetensors format."""
    config, weights = config_and_weights(model)
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


_SHARED = {"inputs": "intensity", "embedding_features": 16, "mixtures": 10, "condition": None}
_PIXELCNN = {"levels": 256, "features": 64, "blocks": 12, "first_kernel_size": 7, "head_features": 128}
_PIXELRNN = {**_PIXELCNN, "blocks": 7, "residual": True, "skip": False}
# By architecture, the arguments that have a default as of format 3. Never edit an entry: a model would get another fingerprint.
DEFAULTS: dict[str, dict[str, Any]] = {
    "pixelcnn": {**_SHARED, **_PIXELCNN, "kernel_size": 3, "likelihood": "categorical"},
    "gated-pixelcnn": {**_SHARED, **_PIXELCNN, "kernel_size": 5, "likelihood": "categorical"},
    "row-lstm": {**_SHARED, **_PIXELRNN, "kernel_size": 3, "likelihood": "categorical"},
    "diagonal-bilstm": {**_SHARED, **_PIXELRNN, "likelihood": "categorical"},
    "pixelcnn++": {
        **_SHARED,
        **{"levels": 256, "features": 40, "blocks": 2, "stages": 3, "dropout": 0.5, "short_cuts": True},
        "likelihood": "logistic-mixture",
    },
    "multiscale": {
        **_SHARED,
        "levels": 256,
        "stages": [{"stride": 2, "name": "gated-pixelcnn"}, {"stride": 1, "name": "gated-pixelcnn"}],
        "upsampler_features": 32,
        "likelihood": "categorical",
    },
}
# By condition, the entries of its config as of format 3: these count whatever their values are.
CONDITION_ENTRIES: dict[str, tuple[str, ...]] = {
    "labels": ("features",),
    "vector": ("features",),
    "spatial-map": ("features", "factor", "maps"),
    "encoded": ("features", "maps"),
    "known": ("maps", "blocks"),
    "combination": ("parts",),
}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's configuration, `{"model": name, **model.config}`, that its fingerprint is of.

    Example:
        >>> identity({"model": "pixelcnn", "shape": [1, 8, 8], "levels": 2, "features": 64, "condition": None})
        {'model': 'pixelcnn', 'shape': [1, 8, 8], 'levels': 2}
    """
    name = config["model"]
    kept = _different({key: value for key, value in config.items() if key != "model"}, name)
    if kept.get("condition") is not None:
        kept["condition"] = _condition(kept["condition"])
    if "stages" in kept and isinstance(kept["stages"], list):  # of a multi-scale model
        kept["stages"] = [_stage(stage) for stage in kept["stages"]]
    return {"model": name, **kept}


def canonical(value: Any) -> bytes:
    """JSON in ASCII with sorted keys and without spaces: equal values give equal bytes.

    Example:
        >>> canonical({"b": (1, 2), "a": None})
        b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _different(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    """The arguments of an architecture that differ from their defaults: those of format 3, of later arguments today's."""
    defaults = _signature(MODELS.get(name)) | DEFAULTS.get(name, {})
    return {key: value for key, value in arguments.items() if key not in defaults or canonical(value) != canonical(defaults[key])}


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    place = {key: stage[key] for key in ("stride", "name")}
    return place | _different({key: value for key, value in stage.items() if key not in place}, stage["name"])


def _condition(config: dict[str, Any]) -> dict[str, Any]:
    name = config["name"]
    entries, later = ("name", *CONDITION_ENTRIES.get(name, ())), _signature(CONDITIONS.get(name))
    kept = {
        key: value
        for key, value in config.items()
        if key in entries or key not in later or canonical(value) != canonical(later[key])
    }
    return kept | ({"parts": [_condition(part) for part in kept["parts"]]} if "parts" in kept else {})


def _signature(constructor: type | None) -> dict[str, Any]:
    """The arguments that have a default, with it."""
    if constructor is None:
        return {}
    parameters = inspect.signature(constructor).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not inspect.Parameter.empty}
