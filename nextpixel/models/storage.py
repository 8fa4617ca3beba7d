"""A model as a folder: config.json, model.safetensors and README.md (the model card)."""

import inspect
import json
import math
import os
import stat
import warnings
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from nextpixel import bundled
from nextpixel.errors import InputError, Notice, fits, spelled
from nextpixel.files import current, open_regular, read_text, replace_folder
from nextpixel.hub import CARD, CONFIG, WEIGHTS, fetch, is_id
from nextpixel.models.base import AutoregressiveModel
from nextpixel.models.names import header, listed, read_names

PROGRESS = "progress.json"  # of a run: {"finished": bool, "best": "epoch 3 of 20", ...}
LONGEST = 2**18  # bytes of a configuration
LONGEST_SIDE = 2**16  # of the images that a stored model is for
FREE = 2**16  # what numbers of a configuration may sum to beside the bytes of the weights
# Calls of torch that constructors make: some 20 for each weight of a PixelCNN, more where many channels make many colour groups.
CALLS, CALLS_FOR_A_WEIGHT = 5000, 25
WRAPPERS = ("module.", "_orig_mod.")
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


IN_PLACE = ("normal_", "uniform_", "zero_", "fill_", "copy_", "kaiming_uniform_", "__setitem__")
COMPARISONS = ("lt", "le", "__lt__", "__le__")


class Storable(Protocol):
    """What can be written and read: a module with a name and the arguments of its constructor as plain values."""

    name: str

    @property
    def config(self) -> dict[str, Any]: ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> Any: ...


Stored = TypeVar("Stored", bound=Storable)

_CARD = """---
library_name: nextpixel
pipeline_tag: unconditional-image-generation
---
# {name}, {channels} x {height} x {width}, {levels} levels

An autoregressive image model with {parameters:,} parameters, saved by [nextpixel](https://pypi.org/project/nextpixel).

```python
import nextpixel
model = nextpixel.load("path/to/this/folder")
images = model.sample(16{cond})
nats = -model.log_prob(images{cond})
```
{classes}{notes}"""


def save(model: AutoregressiveModel, folder: str | Path, notes: str = "") -> None:
    """Write a model's folder; `notes` (Markdown) end its card.

    Raises:
        InputError: the folder cannot be written to.
    """
    channels, height, width = model.shape
    card = _CARD.format(
        name=model.name,
        channels=channels,
        height=height,
        width=width,
        levels=model.levels,
        parameters=sum(p.numel() for p in model.parameters()),
        cond=", cond=..." if model.condition is not None else "",
        classes=listed(model.class_names),
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )
    write_folder(model, folder, card)


def write_folder(model: Storable, folder: str | Path, card: str) -> None:
    """Write config.json, model.safetensors, and `card` as README.md: the folder is replaced as a whole.

    Raises:
        InputError: the folder cannot be written, or holds what is no part of a model.
    """
    config, weights = config_and_weights(model)
    with replace_folder(folder, (CONFIG, WEIGHTS, CARD)) as aside:
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (aside / CARD).write_text(card, encoding="utf-8")
        try:
            safetensors.torch.save_file(weights, aside / WEIGHTS, metadata={"format": "pt", "model": model.name, **header(model)})
        except SafetensorError as error:  # as it calls the errors of the system
            raise OSError(str(error)) from error
        # It gives its files to their owner alone, whatever the umask is.
        os.chmod(aside / WEIGHTS, stat.S_IMODE((aside / CONFIG).stat().st_mode))


def config_and_weights(model: Storable) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is stored of a model, and `build` builds it from: its configuration and its weights."""
    return {"model": model.name, **model.config}, {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def load(folder_or_hub_id: str | Path, revision: str | None = None, **hub: Any) -> AutoregressiveModel:
    """A saved model in eval mode, from a folder (that of the model, or of a whole run), by the name of one in the package
    (`nextpixel.list_models`), or from the Hugging Face hub.

    Of a run that is still training, or was stopped, these are the best weights so far; a `UserWarning` names their epoch.
    Nothing of a folder is trusted: memory and time are bounded by the size of its weights, and no code of it runs.

    Args:
        folder_or_hub_id: a folder, or owner/name; a folder of that name wins.
        revision: a branch, a tag or a commit of the hub.
        hub: further arguments of `nextpixel.hub.fetch`.

    Raises:
        InputError: there is no such folder, name or repository, it holds no model that this version can read, or a folder is
            given a revision.

    Example:
        >>> import nextpixel, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1).save(folder)
        >>> nextpixel.load(folder).name
        'pixelcnn'
    """
    from nextpixel.models import MODELS

    return read_folder(folder_or_hub_id, MODELS, revision, **hub)


def read_folder(folder_or_hub_id: str | Path, models: dict[str, type[Stored]], revision: str | None = None, **hub: Any) -> Stored:
    """What `write_folder` wrote, in eval mode, as one of these classes by their names.

    Raises:
        InputError: as `load`.
    """
    folder, run = _find(folder_or_hub_id, revision, hub)
    model = build(*_read(folder), models, folder / CONFIG, folder / WEIGHTS)
    if isinstance(model, AutoregressiveModel) and model.condition is not None:
        model.class_names = read_names(folder / WEIGHTS, model)
    if run is not None and (unfinished := _unfinished(run)):
        warnings.warn(unfinished, Notice, stacklevel=3)
    return model


def build(
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    models: dict[str, type[Stored]],
    of_config: str | Path,
    of_weights: str | Path,
) -> Stored:
    """The model of a configuration and weights, in eval mode and in the type of the weights; `of_...` name their files in errors.

    Neither is trusted: the model is described first, without memory, and gets it where its weights are those that are given.

    Raises:
        InputError: an unknown model, or one that does not take this configuration or these weights.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if not _sum_of_counts(config) <= size + FREE:
        raise InputError(f"{of_config} describes a model that is larger than its weights, {size} bytes in {of_weights}")
    with torch.device("meta"), _AtMost(CALLS + CALLS_FOR_A_WEIGHT * len(weights)):
        _require_fit(untrained(config, models, of_config), weights, of_weights)
    model = untrained(config, models, of_config)
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    load_weights(model, weights, of_weights)
    return model.eval()


def untrained(config: dict[str, Any], models: dict[str, type[Stored]], of_config: str | Path) -> Stored:
    """A model of this configuration with weights that mean nothing yet.

    Raises:
        InputError: an unknown model, or one that does not take this configuration.
    """
    settings = dict(config)
    name = settings.pop("model", None)
    if not isinstance(name, str) or name not in models:
        raise InputError(f"{of_config} is a {_short(repr(name))} model: expected one of {', '.join(models)}")
    try:
        _check_types(models[name], settings)
        return models[name](**{**settings, "shape": tuple(settings["shape"])})
    except Exception as error:  # whatever a constructor raises, its arguments are those of a file
        raise InputError(f"{of_config} does not describe a {name} of this version: {_short(error)}") from error


def load_weights(model: Storable, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Put weights into a model.

    Raises:
        InputError: the weights are of another network, or not finite; in one line with the first difference.
    """
    _require_fit(model, weights, source)
    for name in sorted(weights):
        if weights[name].is_floating_point() and weights[name].numel():
            low, high = (float(extreme) for extreme in weights[name].detach().aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise InputError(f"{source} has numbers in {name} that are not finite ({low} to {high}): the model is of no use")
    model.load_state_dict(weights)


def _require_fit(model: Storable, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Raise InputError unless weights have the names, shapes and kinds of a model's."""
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        missing = "lacks" if name not in weights else "has an unknown"
        raise InputError(f"{source} is of another architecture than this {model.name}: it {missing} {_short(name)}")
    for name in sorted(own):
        mine, given = own[name], weights[name]
        if mine.shape != given.shape:
            raise InputError(f"{source} has {name} of {_short(tuple(given.shape))}: {model.name} expects {tuple(mine.shape)}")
        if given.dtype not in (TYPES if mine.is_floating_point() else (mine.dtype,)):
            raise InputError(f"{source} has {name} of {given.dtype}: {model.name} expects {mine.dtype}")


def _sum_of_counts(value: Any, name: str = "") -> float:
    """The sum of all numbers in a configuration, without levels, rows and columns, which have limits of their own."""
    if isinstance(value, dict):
        return sum(_sum_of_counts(part, key) for key, part in value.items() if key != "levels")
    if isinstance(value, list | tuple):
        return sum(map(_sum_of_counts, value[:1] if name == "shape" else value))
    return float(min(abs(value), 2**62)) if isinstance(value, int | float) else 0


class _AtMost(TorchFunctionMode):
    """Limits the calls of torch in this thread: a configuration may declare any number of modules."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it describes more weights than there are")
        # What torch computes for tensors without memory imports its compiler, 2 s, for these functions of constructors.
        name = func.__name__
        if name in IN_PLACE:
            return args[0] if args else next(iter((kwargs or {}).values()))
        if name == "__getitem__":  # of one number everywhere, which needs no memory either
            stand_in = torch.zeros((), dtype=torch.bool, device="cpu").expand(args[0].shape)
            return torch.empty(func(stand_in, args[1]).shape, dtype=args[0].dtype)
        if name.endswith("_like"):
            return torch.empty(args[0].shape, dtype=(kwargs or {}).get("dtype", args[0].dtype))
        if name in COMPARISONS:
            return torch.empty(np.broadcast_shapes(*(tensor.shape for tensor in args)), dtype=torch.bool)
        return func(*args, **(kwargs or {}))


def _check_types(kind: type[Storable], settings: dict[str, Any]) -> None:
    """Raise InputError for a setting that is not of the type that a constructor declares for it."""
    hints = get_type_hints(kind.__init__)
    for name in inspect.signature(kind).parameters:
        if name in settings and not fits(settings[name], hints.get(name, Any)):
            raise InputError(f"{name} is {_short(repr(settings[name]))}, expected {spelled(hints[name])}")
    if max(settings["shape"][1:]) > LONGEST_SIDE:
        raise InputError(f"shape is {_short(settings['shape'])}, expected sides of at most {LONGEST_SIDE}")


def _short(what: object) -> str:
    """A part of a message, in one line and not longer than that."""
    text = " ".join(str(what).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _find(folder_or_hub_id: str | Path, revision: str | None, hub: dict[str, Any]) -> tuple[Path, Path | None]:
    """The folder of a model, and that of the run whose model it is."""
    if not isinstance(folder_or_hub_id, str | os.PathLike):
        raise InputError(f"expected a model's folder, a run's folder or a hub id, not {_short(repr(folder_or_hub_id))}")
    text, folder = str(folder_or_hub_id), bundled.find(folder_or_hub_id) or Path(folder_or_hub_id)
    inside = folder / "model"
    for candidate, run in ((folder, folder.parent if folder.name == "model" else None), (inside, folder)):
        if os.path.isfile(current(candidate) / CONFIG):
            if revision is not None:
                raise InputError(f"revision {_short(revision)} is one of the hub, but {_short(text)} is a folder here")
            return current(candidate), run
    if os.path.isfile(folder / "config.yaml"):
        raise InputError(f"{folder} has no model yet: finish it with nextpixel train --out {folder} --resume")
    if os.path.lexists(folder):
        raise InputError(f"{folder} holds no model: expected {CONFIG} in it, or in {inside}")
    if not is_id(text):
        expected = "a model's folder, a run's folder, a hub id owner/name or a bundled model"
        raise InputError(f"{_short(text)} does not exist: expected {expected}{bundled.nearest(text)}")
    return fetch(text, revision, **hub), None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the weights of one and the same model, which another process may replace meanwhile."""
    found: Any = None
    for _ in range(3):
        before = _identity(folder)
        try:
            found = _read_config(folder / CONFIG), _read_weights(folder / WEIGHTS)
        except InputError as error:
            found = error
        if _identity(folder) == before:
            break
    if isinstance(found, InputError):
        raise found
    return found


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return config


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors that are mapped from the file: what is not looked at takes no memory."""
    try:
        os.close(open_regular(path))
        return _plain_names(safetensors.torch.load_file(path), path)
    except InputError:
        raise
    except Exception as error:  # safetensors has errors of its own, and passes on those of torch
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _short(error)
        raise InputError(f"cannot read {path}: {reason}") from error


def _plain_names(weights: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """Weights without the prefixes that DataParallel, DistributedDataParallel and torch.compile give to their names."""
    plain, removed = weights, ""
    while plain and (prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in plain)), "")):
        plain, removed = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}, removed + prefix
    if removed:
        notice = f"{source}: all names of weights begin with {removed!r}, as DataParallel or torch.compile write them: left out"
        warnings.warn(notice, Notice, stacklevel=2)
    return plain


def read_json(path: Path) -> Any:
    """The value of a short JSON file, whose numbers are finite.

    Raises:
        InputError: it cannot be read, is longer than `LONGEST`, or is no JSON.
    """

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{_short(text)} is no finite number")
        return value

    text = read_text(path, LONGEST)
    try:
        return json.loads(text, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} as JSON: {_short(error)}") from error


def _unfinished(run: Path) -> str | None:
    """The warning about the weights of a run that has not ended."""
    path = run / PROGRESS
    if not os.path.lexists(path):
        return None
    progress = read_json(path)
    kinds = {"finished": bool, "best": str}
    if not isinstance(progress, dict) or not all(type(progress.get(name)) is kind for name, kind in kinds.items()):
        raise InputError(f"{path} must hold a JSON object with finished and best, not {_short(progress)}")
    if progress["finished"]:
        return None
    return f"{run} is not finished: these are its best weights so far, of {_short(progress['best'])}"
