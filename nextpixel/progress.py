"""Progress of long work: callbacks, and bars for people, on stderr, if it is a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Item = TypeVar("Item")
# Called with (done, total): so much of all that there is to do. `done` never falls, and is `total` once, in the end.
Progress = Callable[[int, int], None]


class Count:
    """Tells progress of steps that are done one by one.

    Example:
        >>> count = Count(lambda done, total: print(f"{done} of {total}"), total=2)
        >>> count(), count()
        1 of 2
        2 of 2
        (None, None)
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


class Parts:
    """Progress of work that consists of parts, one after the other: each part reports its own, and the whole is reported.

    Example:
        >>> parts = Parts(lambda done, total: print(f"{done} of {total}"), total=5)
        >>> parts(1, 2), parts(2, 2), parts(3, 3)
        1 of 5
        2 of 5
        5 of 5
        (None, None, None)
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int, of_part: int) -> None:
        if self.progress is not None:
            self.progress(self.before + done, self.total)
        if done == of_part:
            self.before += of_part


def track(items: Iterable[Item], total: int, description: str, show: bool = True) -> Iterator[Item]:
    """Yield `items`; meanwhile show how many of `total` are done, the time spent and the time left.

    Example:
        >>> sum(track(range(4), total=4, description="adding"))
        6
    """
    with _bar(show) as bar:
        yield from bar.track(items, total=total, description=description)


@contextmanager
def rows_bar(description: str, total: int) -> Iterator[Progress]:
    """A bar for scans, one or several, of `total` rows together: `sample` and `complete` report to it."""
    with _bar() as bar:
        task = bar.add_task(description, total=total)
        yield Parts(lambda done, total: bar.update(task, completed=done), total)


def _bar(show: bool = True) -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # sys.stderr is looked up now and not at import: tests and notebooks replace it.
    return Progress(*columns, console=Console(file=sys.stderr), disable=not (show and sys.stderr.isatty()), transient=True)
