"""Local parquet files.

They are read by pyarrow itself: `datasets.load_dataset("parquet", ...)` first asks a server in the network (its count of
downloads) and then writes a second copy of the data into its cache.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.data.raw import RawImages, split_name
from nextpixel.data.settings import DataSettings
from nextpixel.data.tables import BATCH, decode_table, find_columns
from nextpixel.errors import InputError

if TYPE_CHECKING:
    import pyarrow


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
    for file, own in zip(files, features, strict=True):
        if own != features[0]:
            raise InputError(
                f"the columns of {file} ({', '.join(own)}) differ from those of {files[0]} ({', '.join(features[0])})"
            )
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    columns = find_columns(features[0], where)

    def batches() -> "Iterator[pyarrow.RecordBatch]":
        for file, table in zip(files, tables, strict=True):
            reader = table.iter_batches(BATCH, columns=columns.names)
            while True:
                try:
                    batch = next(reader, None)
                except (OSError, ValueError) as error:
                    raise _unreadable(file, error) from error
                if batch is None:
                    break
                yield batch

    rows = sum(table.metadata.num_rows for table in tables)
    return decode_table(batches(), rows, columns, where, settings, progress)


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {file} as a parquet file: {' '.join(str(error).split())}")
