"""A progress bar for long work, seen by people only: it goes to stderr, and only where stderr is a terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def track(iterable: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield the items of `iterable`; meanwhile show how many of `total` are done, the time spent and the time left.

    Example:
        >>> sum(track(range(4), total=4, description="adding"))
        6
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        yield from progress.track(iterable, total=total, description=description)
