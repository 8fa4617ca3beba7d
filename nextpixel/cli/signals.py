"""What Ctrl-C and SIGTERM do to the program.

A signal that raises an exception where it likes may leave a lock held, or be swallowed by an import: the program would wait for
ever, or go on. So most verbs end at once. Their files are written aside, and unfinished ones are removed.
While `train` trains, its loop has handlers of its own (nextpixel.training.signals).
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from nextpixel.errors import Stopped
from nextpixel.files import remove_unfinished

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
RAISING = ("compress",)  # prints what is finished; the same command goes on from there
received: list[int] = []


def handle(verb: str) -> None:
    """Handle signals from now on, as this verb needs it; one that the caller ignores, as nohup does, stays ignored."""
    received.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise if verb in RAISING else _end)


def number(error: BaseException) -> int:
    """Which signal an exception comes from: Ctrl-C, unless another is known."""
    return error.number if isinstance(error, Stopped) else received[0] if received else signal.SIGINT


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: with one line, and without half a file."""
    with suppress(Exception):
        remove_unfinished()
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(Exception):
        if sys.stderr.isatty():
            os.write(2, b"\r\x1b[2K\x1b[?25h")  # over the progress bar, and the cursor that it hides is shown again
        if "NEXTPIXEL_PARENT" not in os.environ:  # the first process of a run prints its one line
            os.write(2, f"nextpixel: {'interrupted' if number == signal.SIGINT else 'terminated'}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    """Let the verb print what it has done; a second signal ends it at once."""
    if received:
        _end(number, frame)
    received.append(number)
    raise Stopped("interrupted" if number == signal.SIGINT else "terminated", number)
