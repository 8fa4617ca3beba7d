"""The front matter of a model card: what the hub lists a model by, and its figures as a model-index."""

import re
from pathlib import PurePath
from typing import Any

import yaml

from nextpixel.errors import InputError
from nextpixel.results.measurement import Measurement

FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
TASK = "unconditional-image-generation"


def with_front_matter(card: str, repo: str, name: str, licence: str | None, found: Measurement | None) -> str:
    """A card as it stands in the repository `repo`.

    Args:
        card: of the model's folder; what its own front matter has stays, unless it is given here.
        repo: owner/name, which `nextpixel.load` in the card then names.
        name: of the architecture.
        licence: as the hub names it, such as apache-2.0; None leaves what there is.
        found: the measurement of the likelihood.

    Raises:
        InputError: the card's own front matter is no mapping in YAML.

    Example:
        >>> print(with_front_matter("# A model\\n", "mia/a", "pixelcnn", "mit", None))
        ---
        library_name: nextpixel
        pipeline_tag: unconditional-image-generation
        license: mit
        tags:
        - pixelcnn
        - autoregressive
        ---
        # A model
        <BLANKLINE>
    """
    match = FRONT.match(card)
    try:
        own = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        own = None
    if not isinstance(own, dict):
        raise InputError("the front matter of the model's README.md is no mapping in YAML: expected lines as license: mit")
    data: dict[str, Any] = {"library_name": "nextpixel", "pipeline_tag": TASK, **own}
    if licence is not None:
        data["license"] = licence
    data.setdefault("tags", [name, "autoregressive"])
    if found is not None:
        data["model-index"] = [{"name": repo.rpartition("/")[2], "results": [_result(found)]}]
    front = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    body = (card[match.end() :] if match else card).replace('nextpixel.load("path/to/this/folder")', f'nextpixel.load("{repo}")')
    return f"---\n{front}---\n{body}"


def _result(found: Measurement) -> dict[str, Any]:
    """A measurement as a result of a model-index: the figure, nats per image, and their errors."""
    metrics = [_metric(found.unit, found.figure, found.standard_error, found.images)]
    if (nats := found.also.get("nats_per_image")) is not None:
        metrics.append(_metric("nats per image", nats, found.also.get("nats_per_image_standard_error"), found.images))
    # A folder of this machine is named by its last part alone.
    data, split = str(found.also.get("data", "unknown")), found.also.get("split")
    dataset = {"name": PurePath(data).name or data, "type": PurePath(data).name or data}
    if split is not None:
        dataset["split"] = split
    return {"task": {"type": TASK}, "dataset": dataset, "metrics": metrics}


def _metric(unit: str, figure: float, error: float | None, images: int | None) -> dict[str, Any]:
    more = ([] if error is None else [f"± {error:.2g}"]) + ([] if images is None else [f"{images} images"])
    return {"type": unit, "value": figure, "name": unit + (f" ({', '.join(more)})" if more else "")}
