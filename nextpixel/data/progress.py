"""The progress bar of long loading work."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str, show: bool) -> Iterator[T]:
    """Yield `items` and show on a terminal how many of `total` are done and how long the rest will take.

    Example:
        >>> sum(track([1, 2, 3], total=3, what="adding", show=False))
        6
    """
    if not show or not sys.stderr.isatty():
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)
