"""Data sets of the Hugging Face hub."""

import re
from typing import TYPE_CHECKING

from nextpixel.data.raw import RawImages, split_name
from nextpixel.data.settings import FORMS, DataSettings
from nextpixel.data.tables import BATCH, decode_table, find_columns
from nextpixel.errors import InputError

if TYPE_CHECKING:
    import datasets

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
    except Exception as error:  # the kind hangs on the versions of the hub's libraries and their network layer
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"cannot load {name!r} from the Hugging Face hub ({reason}), and no file or folder has this name: a source is {FORMS}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
