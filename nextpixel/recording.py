"""Functions that a recorder of torch's calls takes as one: see `nextpixel.compiled.recorder`."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class NotRecordableError(Exception):
    """Something that a recorder has no record for."""


class Taker(Protocol):
    """What records."""

    def take(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any: ...


_recorder: tuple[int, Taker] | None = None


def recordable(function: Function) -> Function:
    """While its thread records, a call goes to the recorder instead, with the function's own arguments.

    Example:
        >>> @recordable
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(3)
        6
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if _recorder is None or _recorder[0] != threading.get_ident():
            return function(*args)
        return _recorder[1].take(function, args)

    return call  # type: ignore[return-value]


@contextmanager
def recorded_by(recorder: Taker) -> Iterator[None]:
    """Let this thread's calls of recordable functions go to a recorder; one thread at a time."""
    global _recorder
    with _lock:
        _recorder = threading.get_ident(), recorder
        try:
            yield
        finally:
            _recorder = None


_lock = threading.Lock()
