"""Tables in Hugging Face form: an image column and perhaps a label column, read as Arrow batches.

Local parquet files.

They are read by pyarrow itself: `datasets.load_dataset("parquet", ...)` first contacts a server (its count of
downloads) and then writes a second copy of the data into its cache.

Data sets of the Hugging Face hub.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nextpixel.data.classes import in_order
from nextpixel.data.folder import stack_pictures
from nextpixel.data.raw import RawImages, check_labels, split_name
from nextpixel.data.settings import FORMS, RELATIVE, DataSettings
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


def load_parquet(files: list[Path], settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read parquet files in Hugging Face form; those of one split (see `stem_split`) are joined in the order of their names.

    Raises:
        InputError: a file is unreadable, has no image column, or differs in its columns from the others of its split.
    """
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(stem_split(file.stem), []).append(file)
    return {name: _load_group(group, settings, progress) for name, group in groups.items()}


def stem_split(stem: str) -> str:
    """Return the split of a file: by its beginning train*, val*, test*, else its name without the number of the part.

    Example:
        >>> stem_split("train-00000-of-00003"), stem_split("valid_b"), stem_split("gallery-0-of-2")
        ('train', 'validation', 'gallery')
    """
    known = re.match(r"train|val|test", stem, re.IGNORECASE)
    return split_name(known.group() if known else re.sub(r"-\d+-of-\d+$", "", stem))


def _load_group(files: list[Path], settings: DataSettings, progress: bool) -> RawImages:
    """Read the files of one split one after the other."""
    import datasets
    import pyarrow.parquet as pq

    tables = []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file))
        except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise _unreadable(file, error) from error
    features = [datasets.Features.from_arrow_schema(table.schema_arrow) for table in tables]
    found = [find_columns(own, str(file)) for file, own in zip(files, features, strict=True)]
    names = found[0].class_names
    if settings.split_by != "position" and any(own.class_names != names for own in found) and all(o.class_names for o in found):
        names = in_order([name for own in found for name in own.class_names])
    for file, own, mine in zip(files, features, found, strict=True):
        same = {k: v for k, v in own.items() if k != mine.label} == {k: v for k, v in features[0].items() if k != found[0].label}
        named = mine.label == found[0].label and mine.class_names and names and list(own) == list(features[0]) and same
        if own != features[0] and not (named and settings.split_by != "position"):
            raise InputError(
                f"the columns of {file} ({', '.join(own)}) differ from those of {files[0]} ({', '.join(features[0])})"
            )
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    columns = replace(found[0], class_names=names)

    def batches() -> "Iterator[pyarrow.RecordBatch]":
        for file, table, own in zip(files, tables, found, strict=True):
            reader = table.iter_batches(BATCH, columns=columns.names)
            while True:
                try:
                    batch = next(reader, None)
                except (OSError, ValueError) as error:
                    raise _unreadable(file, error) from error
                if batch is None:
                    break
                yield batch if own.class_names == names else _by_name(batch, own, names)

    rows = sum(table.metadata.num_rows for table in tables)
    return decode_table(batches(), rows, columns, where, settings, progress)


def _by_name(batch: "pyarrow.RecordBatch", columns: Columns, names: list[str]) -> "pyarrow.RecordBatch":
    """A batch whose labels count in `names` instead of in those of its own file."""
    import pyarrow as pa

    numbers = [names.index(name) for name in columns.class_names]
    labels = batch.column(columns.label).to_pylist()
    strange = next((k for k in labels if k is not None and not -1 <= k < len(numbers)), None)
    if strange is not None:
        raise InputError(f"a label is {strange}, but its file names {len(numbers)} classes: expected 0 to {len(numbers) - 1}")
    matched = [k if k is None or k < 0 else numbers[k] for k in labels]
    place = batch.schema.get_field_index(columns.label)
    return batch.set_column(place, columns.label, pa.array(matched, pa.int64()))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {file} as a parquet file: {' '.join(str(error).split())}")


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TIMEOUT = 10.0  # seconds until the hub must have answered the first question


def load_hub(name: str, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Download a data set from the Hugging Face hub (once: it stays in the hub's cache) and read all its splits.

    Raises:
        InputError: no such data set, no network, or no image column.
    """
    parts: dict[str, RawImages] = {}
    for split, table in _download(name).items():
        where = f"{name} ({split})"
        columns = find_columns(table.features, where)
        batches = table.select_columns(columns.names).with_format("arrow").iter(BATCH)
        parts[split_name(str(split))] = decode_table(batches, len(table), columns, where, settings, progress)
    return parts


def _download(name: str) -> "datasets.DatasetDict":
    """Return the whole data set, without the progress bars and the network look-ups of `datasets` that serve its statistics."""
    import datasets
    import huggingface_hub

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        # One quick question first: `load_dataset` repeats a failed one for 23 seconds and writes a warning each time.
        if not datasets.config.HF_HUB_OFFLINE:
            huggingface_hub.HfApi().dataset_info(name, timeout=TIMEOUT)
        return datasets.load_dataset(name)
    except Exception as error:  # the type depends on the versions of the hub's libraries and their network layer
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"cannot load {name!r} from the Hugging Face hub ({reason}), and no file or folder has this name "
            f"({RELATIVE}): a source is {FORMS}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
