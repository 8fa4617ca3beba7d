"""Tables in Hugging Face form: an image column and perhaps a label column, read as Arrow batches.

Local parquet files.

They are read by pyarrow itself: `datasets.load_dataset("parquet", ...)` first contacts a server (its count of
downloads) and then writes a second copy of the data into its cache.

Data sets of the Hugging Face hub, and folders that `save_to_disk` wrote.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from nextpixel.data.arrays import as_images, as_labels
from nextpixel.data.classes import in_order
from nextpixel.data.folder import stack_pictures
from nextpixel.data.raw import SPLITS, RawImages, split_name
from nextpixel.data.settings import FORMS, RELATIVE, DataSettings
from nextpixel.errors import InputError, shown

if TYPE_CHECKING:
    import datasets
    import pyarrow


BATCH = 256  # rows between two reads
LABEL_NAMES = ("label", "labels", "class", "target", "y")
# Where several columns can be images.
IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "pixels", "pixel_values", "image_bytes", "bytes")


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
TIMEOUT = 10.0  # seconds until the hub must have answered the first question


@dataclass(frozen=True)
class Columns:
    """The two columns that matter.

    Args:
        image: Name of the image column.
        label: Name of the label column, or None.
        class_names: Name of each class, or None.
        numbers: Whether its cells are arrays of numbers, not files of pictures.
    """

    image: str
    label: str | None
    class_names: list[str] | None
    numbers: bool = False

    @property
    def names(self) -> list[str]:
        return [self.image] if self.label is None else [self.image, self.label]


def find_columns(features: "datasets.Features", where: str) -> Columns:
    """Choose the image column and the label column by their features.

    Images: the one Image column (or struct with `bytes`), else the one of binary cells, else of arrays (Array2D, Array3D, nested
    lists); and among several the first that is called as in `IMAGE_NAMES`. Labels: the ClassLabel called label, else the first
    ClassLabel, else a column of integers or strings called label, labels, class, target or y.

    Raises:
        InputError: no image column, or several and none of them with such a name.
    """
    from datasets import ClassLabel, Value

    images: list[str] = []
    for test in (_is_picture, _is_binary, _is_array):
        images = images or [name for name, kind in features.items() if test(kind)]
    named = [name for name in IMAGE_NAMES if name in images]
    if not images or (len(images) > 1 and not named):
        found = f"several image columns ({', '.join(map(shown, images[:6]))})" if images else "no image column"
        kinds = ", ".join(f"{shown(name)} ({_kind(kind)})" for name, kind in list(features.items())[:6])
        wanted = (
            "expected one, or one called image or img" if images else "expected pictures, binary files of pictures, or arrays"
        )
        raise InputError(f"{where} has {found} among its columns {kinds}: {wanted}")
    image = (named or images)[0]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    plain = [
        name for name, kind in features.items() if isinstance(kind, Value) and ("int" in kind.dtype or "string" in kind.dtype)
    ]
    labels = [name for name in classes if name == "label"] + classes + [name for name in LABEL_NAMES if name in plain]
    label = labels[0] if labels else None
    return Columns(image, label, features[label].names if label in classes else None, _is_array(features[image]))


def _is_picture(kind: Any) -> bool:
    from datasets import Image

    return isinstance(kind, Image) or (isinstance(kind, dict) and "bytes" in kind)


def _is_binary(kind: Any) -> bool:
    from datasets import Value

    return isinstance(kind, Value) and "binary" in kind.dtype


def _is_array(kind: Any) -> bool:
    """Whether cells have two or more dimensions."""
    from datasets import Array2D, Array3D, Array4D

    def depth(kind: Any) -> int:
        inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
        return 0 if inner is None else 1 + depth(inner)

    return isinstance(kind, Array2D | Array3D | Array4D) or depth(kind) >= 2


def _kind(kind: Any) -> str:
    return str(getattr(kind, "dtype", None) or type(kind).__name__)


def decode_table(
    batches: "Iterable[tuple[pyarrow.RecordBatch | pyarrow.Table, Columns]]",
    rows: int,
    class_names: list[str] | None,
    where: str,
    settings: DataSettings,
    progress: bool,
) -> RawImages:
    """Decode the pictures of all batches, `rows` in all, and collect their labels on the way.

    Labels that are all -1 or null are no labels: the form of test sets whose labels are kept secret. Labels of files that name
    their classes in another order are matched by name.

    Raises:
        InputError: a picture is missing or cannot be used, or only some of the labels are there.
    """
    labels: list[int | str | None] = []

    def cells() -> Iterator[tuple[Any, str]]:
        row = 0
        for batch, columns in batches:
            if columns.label is not None:
                own = batch.column(columns.label).to_pylist()
                if class_names is not None and columns.class_names is not None and columns.class_names != class_names:
                    own = [k if k is None or k < 0 else _by_name(k, columns.class_names, class_names, where) for k in own]
                labels.extend(own)
            for cell in batch.column(columns.image).to_pylist():
                yield cell, f"image {row} of {where}"
                row += 1

    cells_of_all = cells()
    first = next(cells_of_all, None)
    every = chain([] if first is None else [first], cells_of_all)
    if first is not None and isinstance(first[0], list):
        images, levels = as_images(_stack_numbers(every, rows), where, settings), settings.levels
    else:
        images, levels = stack_pictures(_as_files(every), rows, settings, where, progress), 256
    if set(labels) <= {-1, None}:
        return RawImages(images, None, None, levels)
    if None in labels:
        raise InputError(f"image {labels.index(None)} of {where} has no label (null): expected one in every row or in none")
    numbers, names = as_labels(np.array(labels), rows, where)
    return RawImages(images, numbers, class_names or names, levels)


def _by_name(label: int, own: list[str], names: list[str], where: str) -> int:
    """A label that counts in the classes `own` of its file, as one that counts in `names`."""
    if label >= len(own):
        raise InputError(f"{where}: a label is {label}, but its file names {len(own)} classes: expected 0 to {len(own) - 1}")
    return names.index(own[label])


def _as_files(cells: Iterable[tuple[Any, str]]) -> Iterator[tuple[Path | BinaryIO, str]]:
    """Cells as what is open for reading: bytes, or a dictionary of bytes or a path."""
    for cell, name in cells:
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path is None:
            raise InputError(f"{name} is missing (null): expected a picture in every row")
        yield (Path(path) if content is None else BytesIO(content)), name


def _stack_numbers(cells: Iterable[tuple[Any, str]], rows: int) -> np.ndarray:
    """Nested lists of numbers as one array, in the smallest type that its numbers need."""
    stacked: np.ndarray | None = None
    for row, (cell, name) in enumerate(cells):
        try:
            array = np.array(cell)
        except ValueError:  # rows of different lengths
            array = np.array(None)
        if array.dtype.kind not in "iubf":
            raise InputError(f"{name} is no array of numbers: expected rows of one length, none of them missing")
        if stacked is None:
            stacked = np.empty((rows, *array.shape), dtype=array.dtype)
        if array.shape != stacked.shape[1:]:
            raise InputError(f"{name} has the shape {array.shape} where image 0 has {stacked.shape[1:]}: expected one shape")
        stacked[row] = array
    if stacked is None:
        return np.empty((0, 0, 0), dtype=np.uint8)
    small = stacked.dtype.kind in "iu" and stacked.size and stacked.min() >= 0
    return stacked.astype(np.min_scalar_type(int(stacked.max()))) if small else stacked


def load_parquet(files: list[Path], settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read parquet files in Hugging Face form; those of one split (see `stem_split`) are joined in the order of their names.

    Raises:
        InputError: a file is unreadable, has no image column, or differs in its columns from the others of its split.
    """
    return {name: _load_group(group, settings, progress) for name, group in group_by_split(files).items()}


def group_by_split(files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split in the order of their names; all are one where no name is that of a split.

    Example:
        >>> group_by_split([Path("00001.parquet"), Path("00000.parquet")])
        {'all': [PosixPath('00000.parquet'), PosixPath('00001.parquet')]}
        >>> list(group_by_split([Path("train-0.parquet"), Path("train-1.parquet"), Path("gallery.parquet")]))
        ['gallery', 'train']
    """
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(stem_split(file.name.partition(".")[0] if file.suffix != ".parquet" else file.stem), []).append(file)
    return groups if any(name in SPLITS for name in groups) else {"all": sorted(files)}


def stem_split(stem: str) -> str:
    """Return the split of a file: by its beginning train*, val*, test*, or such a word, else its name without its number.

    Example:
        >>> stem_split("train-00000-of-00003"), stem_split("valid_b"), stem_split("gallery-0-of-2"), stem_split("mnist_test")
        ('train', 'validation', 'gallery', 'test')
    """
    known = re.match(r"train|val|test", stem, re.IGNORECASE)
    words = [split_name(word) for word in re.split(r"[-_. ]", stem) if split_name(word) in SPLITS]
    return split_name(known.group()) if known else words[0] if words else re.sub(r"[-_]?\d+(-of-\d+)?$", "", stem) or stem


def _load_group(files: list[Path], settings: DataSettings, progress: bool) -> RawImages:
    """Read the files of one split one after the other."""
    import datasets
    import pyarrow.parquet as pq

    tables, found = [], []
    for file in files:
        try:
            tables.append(pq.ParquetFile(file))
        except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise _unreadable(file, error) from error
        found.append(find_columns(datasets.Features.from_arrow_schema(tables[-1].schema_arrow), str(file)))
    for file, columns in zip(files, found, strict=True):
        if (columns.names, columns.numbers) != (found[0].names, found[0].numbers):
            own, first = (f"{', '.join(c.names)}{' (arrays)' if c.numbers else ''}" for c in (columns, found[0]))
            raise InputError(f"the columns of {file} ({own}) differ from those of {files[0]} ({first})")
        if (columns.class_names is None) != (found[0].class_names is None):
            raise InputError(f"only one of {file} and {files[0]} names its classes: expected all of a split to, or none")
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    names = _joined_names([columns.class_names for columns in found], settings)

    def batches() -> "Iterator[tuple[pyarrow.RecordBatch, Columns]]":
        for file, table, columns in zip(files, tables, found, strict=True):
            reader = table.iter_batches(BATCH, columns=columns.names)
            while True:
                try:
                    batch = next(reader, None)
                except (OSError, ValueError) as error:
                    raise _unreadable(file, error) from error
                if batch is None:
                    break
                yield batch, columns

    rows = sum(table.metadata.num_rows for table in tables)
    return decode_table(batches(), rows, names, where, settings, progress)


def _joined_names(names: list[list[str] | None], settings: DataSettings) -> list[str] | None:
    """The classes of files that are joined: those of the first where all are alike."""
    if names[0] is None or all(own == names[0] for own in names):
        return names[0]
    every = [name for own in names for name in own or ()]
    # The first file's classes in its order, then what only others have: the rule of runs that split by position.
    return list(dict.fromkeys(every)) if settings.split_by == "position" else in_order(every)


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {file} as a parquet file: {' '.join(str(error).split())}")


def load_hub(name: str, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Download a data set from the Hugging Face hub (once: it stays in the hub's cache) and read all its splits.

    Raises:
        InputError: no such data set, no network, or no image column.
    """
    return {
        split_name(str(split)): _decode_dataset(table, f"{name} ({split})", settings, progress)
        for split, table in _download(name).items()
    }


def _decode_dataset(table: "datasets.Dataset", where: str, settings: DataSettings, progress: bool) -> RawImages:
    columns = find_columns(table.features, where)
    batches = table.select_columns(columns.names).with_format("arrow").iter(BATCH)
    return decode_table(((batch, columns) for batch in batches), len(table), columns.class_names, where, settings, progress)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` wrote this folder by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def load_saved(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read what `save_to_disk` of a Dataset or a DatasetDict wrote.

    Raises:
        InputError: it is damaged, or has no image column.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # the type depends on what is damaged, and on the version of `datasets`
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"cannot read {folder} as a data set that save_to_disk wrote: {reason}") from error
    tables = saved if isinstance(saved, datasets.DatasetDict) else {"all": saved}
    return {
        split_name(str(name)): _decode_dataset(
            table, f"{folder} ({name})" if len(tables) > 1 else str(folder), settings, progress
        )
        for name, table in tables.items()
    }


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
