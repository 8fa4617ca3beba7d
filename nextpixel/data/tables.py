"""Tables in Hugging Face form: an image column and perhaps a label column, read as Arrow batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nextpixel.data.pictures import stack_pictures
from nextpixel.data.raw import RawImages, check_labels
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError

if TYPE_CHECKING:
    import datasets
    import pyarrow

BATCH = 256  # rows between two reads
LABEL_NAMES = ("label", "labels", "class", "target", "y")


@dataclass(frozen=True)
class Columns:
    """The two columns that matter.

    Args:
        image: Name of the image column.
        label: Name of the label column, or None.
        class_names: Name of each class, or None.
    """

    image: str
    label: str | None
    class_names: list[str] | None

    @property
    def names(self) -> list[str]:
        return [self.image] if self.label is None else [self.image, self.label]


def find_columns(features: "datasets.Features", where: str) -> Columns:
    """Choose the image column and the label column by their features.

    Images: the one Image column (or struct with `bytes`), and among several the one called image or img. Labels: the
    ClassLabel called label, else the first ClassLabel, else an integer column called label, labels, class, target or y.

    Raises:
        InputError: no image column, or several and none of them called image or img.
    """
    from datasets import ClassLabel, Image, Value

    images = [name for name, kind in features.items() if isinstance(kind, Image) or (isinstance(kind, dict) and "bytes" in kind)]
    named = [name for name in ("image", "img") if name in images]
    if not images or (len(images) > 1 and not named):
        found = f"several image columns ({', '.join(images)})" if images else "no image column"
        raise InputError(f"{where} has {found} among its columns {', '.join(features)}: expected one, or one called image or img")
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    integers = [name for name, kind in features.items() if isinstance(kind, Value) and "int" in kind.dtype]
    labels = [name for name in classes if name == "label"] + classes + [name for name in LABEL_NAMES if name in integers]
    label = labels[0] if labels else None
    return Columns((named or images)[0], label, features[label].names if label in classes else None)


def decode_table(
    batches: "Iterable[pyarrow.RecordBatch | pyarrow.Table]",
    rows: int,
    columns: Columns,
    where: str,
    settings: DataSettings,
    progress: bool,
) -> RawImages:
    """Decode the pictures of all batches, `rows` in all, and collect their labels on the way.

    Labels that are all -1 or null are no labels: the form of test sets whose labels are kept secret.

    Raises:
        InputError: a picture is missing or cannot be used, or only some of the labels are there.
    """
    labels: list[int | None] = []

    def pictures() -> Iterator[tuple[Path | BinaryIO, str]]:
        row = 0
        for batch in batches:
            if columns.label is not None:
                labels.extend(batch.column(columns.label).to_pylist())
            for cell in batch.column(columns.image).to_pylist():
                name = f"image {row} of {where}"
                content, path = (None, None) if cell is None else (cell["bytes"], cell.get("path"))
                if content is None and path is None:
                    raise InputError(f"{name} is missing (null): expected a picture in every row")
                yield (Path(path) if content is None else BytesIO(content)), name
                row += 1

    images = stack_pictures(pictures(), rows, settings, where, progress)
    if set(labels) <= {-1, None}:
        return RawImages(images, None, None, levels=256)
    if None in labels:
        raise InputError(
            f"image {labels.index(None)} of {where} has no {columns.label} (null): expected one in every row or in none"
        )
    return RawImages(images, check_labels(np.array(labels), rows, where), columns.class_names, levels=256)
