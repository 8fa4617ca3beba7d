"""Progress bars for long work, seen by people only: they go to stderr, and only where stderr is a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, description: str, show: bool = True) -> Iterator[Item]:
    """Yield `items`; meanwhile show how many of `total` are done, the time spent and the time left.

    Example:
        >>> sum(track(range(4), total=4, description="adding"))
        6
    """
    with _bar(show) as progress:
        yield from progress.track(items, total=total, description=description)


@contextmanager
def rows_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for scans: `sample` and `complete` call what it yields after each of `total` rows."""
    with _bar() as progress:
        task = progress.add_task(description, total=total)
        yield lambda rows: progress.advance(task)


def _bar(show: bool = True) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # sys.stderr is looked up now and not at import: tests and notebooks replace it.
    return Progress(*columns, console=Console(file=sys.stderr), disable=not (show and sys.stderr.isatty()), transient=True)
