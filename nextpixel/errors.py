"""Messages to the user: input that cannot be used, and notices about a result.

Whether a value from a file, whose types nothing has checked, is of the type that a function declares.
"""

import inspect
import numbers
import signal
import types
import typing
from typing import Any

LARGEST_SIZE = 2**14  # of anything that a constructor counts
LONGEST_SHOWN = 150  # characters of a name in a message


class InputError(ValueError):
    """Bad input: the message names what was given and what was expected, on one line.

    The command line prints it and exits with status 2.
    Everything else that is raised is a mistake of the library and keeps its traceback.
    """


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; the message is one line, and the command line's status 128 + `number`."""

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)


class Notice(UserWarning):
    """A notice about a result that is as good as it can be; the command line prints the line alone."""


def shown(name: object, longest: int = LONGEST_SHOWN) -> str:
    """A name from a file or a file system as a message shows it: in one line, and not longer than needed to find it.

    Example:
        >>> shown("a\\nb.png"), len(shown("x" * 500)), len(shown("x" * 500, longest=60))
        ('a\\\\nb.png', 150, 60)
    """
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))
    return text if len(text) <= longest else f"{text[: longest // 5]}...{text[longest // 5 + 3 - longest :]}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type; lists stand for tuples, and a bool is no number.

    Example:
        >>> fits([1, 8, 8], tuple[int, int, int]), fits("8", int | None), fits(True, int), fits(1, float), fits(None, Any)
        (True, False, False, True, True)
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(one, inner[0]) for one in value)
    kind = {int: numbers.Integral, float: numbers.Real}.get(hint, origin or hint)  # numpy's numbers are numbers too
    return not isinstance(kind, type) or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))


def spelled(hint: Any) -> str:
    """A declared type as it is written, without the modules of the package.

    Example:
        >>> spelled(tuple[int, int] | None), spelled(typing.Literal["a", "b"])
        ('tuple[int, int] | None', "'a' | 'b'")
    """
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    text = inspect.formatannotation(hint)
    for name in ("typing.", "nextpixel.conditions.base."):
        text = text.replace(name, "")
    return text


def require_positive(**sizes: int) -> None:
    """Refuse sizes below 1, and those of no network that any machine could hold.

    Raises:
        InputError: the first such size, by name.

    Example:
        >>> require_positive(features=8, blocks=0)
        Traceback (most recent call last):
        nextpixel.errors.InputError: blocks must be at least 1, not 0
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, not {size}")
        if size > LARGEST_SIZE:
            raise InputError(f"{name} must be at most {LARGEST_SIZE}, not {size}")
