"""A model as a folder: config.json, model.safetensors and README.md (the model card)."""

import json
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError

from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.models.base import AutoregressiveModel

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


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
{notes}"""


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
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )
    write_folder(model, folder, card)


def write_folder(model: Storable, folder: str | Path, card: str) -> None:
    """Write config.json, model.safetensors, and `card` as README.md.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(folder)
    config, weights = parts(model)
    with write_aside(folder / WEIGHTS) as path:
        safetensors.torch.save_file(weights, path, metadata={"format": "pt", "model": model.name})
    with write_aside(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    with write_aside(folder / CARD) as path:
        path.write_text(card)


def parts(model: Storable) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is stored of a model, and `build` builds it from: its configuration and its weights."""
    return {"model": model.name, **model.config}, {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def load(folder_or_hub_id: str | Path) -> AutoregressiveModel:
    """A saved model in eval mode, from a folder (that of the model, or of a whole run) or from the Hugging Face hub.

    Raises:
        InputError: there is no such folder, or it holds no model that this version can read.

    Example:
        >>> import nextpixel, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1).save(folder)
        >>> nextpixel.load(folder).name
        'pixelcnn'
    """
    from nextpixel.models import MODELS

    return read_folder(folder_or_hub_id, MODELS)


def read_folder(folder_or_hub_id: str | Path, models: dict[str, type[Stored]]) -> Stored:
    """What `write_folder` wrote, in eval mode, as one of these classes by their names.

    Raises:
        InputError: as `load`.
    """
    folder = _find(folder_or_hub_id)
    config = _read_config(folder / CONFIG)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {folder / WEIGHTS}: {error}") from error
    return build(config, weights, models, folder / CONFIG, folder / WEIGHTS)


def build(
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    models: dict[str, type[Stored]],
    of_config: str | Path,
    of_weights: str | Path,
) -> Stored:
    """The model of a configuration and weights, in eval mode and in the type of the weights; `of_...` say where they are from.

    Raises:
        InputError: an unknown model, or one that does not take this configuration or these weights.
    """
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
    settings.pop("recompute", None)  # PixelRNNs had it before it became a setting of training
    if name not in models:
        raise InputError(f"{of_config} is a {name!r} model: expected one of {', '.join(models)}")
    try:
        return models[name](**{**settings, "shape": tuple(settings["shape"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"{of_config} does not describe a {name} of this version: {error}") from error


def load_weights(model: Storable, weights: dict[str, torch.Tensor], source: str | Path) -> None:
    """Put weights into a model.

    Raises:
        InputError: the weights are of another network, in one line with the first difference.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        missing = "lacks" if name not in weights else "has an unknown"
        raise InputError(f"{source} is of another architecture than this {model.name}: it {missing} {name}")
    for name in sorted(own):
        if own[name].shape != weights[name].shape:
            raise InputError(
                f"{source} has {name} of {tuple(weights[name].shape)}: {model.name} expects {tuple(own[name].shape)}"
            )
    model.load_state_dict(weights)


def _find(folder_or_hub_id: str | Path) -> Path:
    folder = Path(folder_or_hub_id)
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG).is_file():
            return candidate
    if folder.exists():
        raise InputError(f"{folder} holds no model: expected {CONFIG} in it, or in {folder / 'model'}")
    text = str(folder_or_hub_id)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise InputError(f"{text} does not exist: expected a model's folder, a run's folder or a hub id owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or ["no answer"])[0]
        raise InputError(f"{text} is no folder here and could not be fetched from the hub: {reason}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return config
