"""Names of the classes of a stored model: in the header of its weights, and in its card.

Older versions refuse an unknown key of config.json, but leave the header of the weights alone.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch

from nextpixel.conditions import Labels
from nextpixel.errors import InputError
from nextpixel.models.base import AutoregressiveModel

KEY = "class_names"
LISTED = 100  # in a card


def header(model: Any) -> dict[str, str]:
    """What the header of the weights has of the names; nothing where there are none."""
    names = getattr(model, "class_names", None)
    return {} if names is None else {KEY: json.dumps(list(names))}


def listed(names: list[str] | None) -> str:
    """The classes by their numbers, for the card; the first hundred."""
    if names is None:
        return ""
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return "\nClasses: " + ", ".join(f"{k} {' '.join(name.split())}" for k, name in enumerate(names[:LISTED])) + more + ".\n"


def classes_of(model: AutoregressiveModel) -> int | None:
    """How many classes a model's labels have; None without labels."""
    parts = [] if model.condition is None else [part for part in model.condition.each() if isinstance(part, Labels)]
    return parts[0].features if parts else None


def numbered_classes(model: AutoregressiveModel) -> list[str] | None:
    """Names for the classes of a model that keeps none: their numbers. None without labels."""
    classes = classes_of(model)
    return None if classes is None else [str(k) for k in range(classes)]


def read_names(weights: Path, model: AutoregressiveModel) -> list[str] | None:
    """The names of the model's classes in its file of weights; None where it has none.

    Raises:
        InputError: it has something else.
    """
    classes = classes_of(model)
    if classes is None:
        return None
    try:
        with safetensors.safe_open(weights, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
        names = None if text is None else json.loads(text)
    except Exception as error:  # safetensors and json have errors of their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read the names of classes in {weights}: {reason}") from error
    if names is None:
        return None
    fit = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names) == classes
    if not fit:
        raise InputError(f"the names of classes in {weights}: expected {classes} different texts, as its model has classes")
    return names


def captions(model: AutoregressiveModel, cond: Any, number: int) -> list[str] | None:
    """The name of the class of each of so many images, for a sheet of them; None where classes have no names, or all have one.

    Args:
        model: that drew them.
        cond: one for all images, or B of which each is for number / B images that follow one another.
        number: of images.
    """
    if model.class_names is None or cond is None or model.condition is None or model.condition.source != "label":
        return None
    labels = torch.as_tensor(cond).reshape(-1).tolist()
    if len(labels) < 2:
        return None
    return [model.class_names[label] for label in labels for _ in range(number // len(labels))]
