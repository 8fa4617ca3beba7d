"""The bar over the rows of a scan."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from nextpixel.models.base import LANES


@contextmanager
def rows_bar(description: str, images: int, height: int) -> Iterator[Callable[[int], None]]:
    """What `sample` and `complete` call after each row; the bar with its ETA is shown where stderr is a terminal."""
    scans = -(-images // LANES)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(description, total=scans * height)
        yield lambda rows: progress.advance(task)
