"""Signals during training: a handler that only sets a flag, which the loop reads where it can stop.

An exception that a handler raises lands at any bytecode, also between taking and releasing a lock, or halfway through a change of
the weights. A flag cannot: what the loop was doing is finished first, then saved.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

# Ctrl-C; what `kill`, `docker stop` and schedulers send; a terminal that closes; what schedulers send ahead of time.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
GRACE = 3.0  # seconds that unwinding may take where nothing has to be saved


class Interrupted(BaseException):
    """A signal has ended the run; what was learned is saved, and the message gives the command that goes on.

    It is no `Exception`: readers turn any exception of a library into one line about a damaged file, and a signal may come there.

    Args:
        message: one line.
        signum: which signal.
        together: whether all processes of the run have agreed to stop, and end by themselves.
    """

    def __init__(self, message: str, signum: int = signal.SIGINT, together: bool = False) -> None:
        super().__init__(message)
        self.signum, self.together = signum, together

    @property
    def status(self) -> int:
        """The exit status that shells expect: 128 + the signal's number; SIGUSR1 announces SIGTERM and has its status."""
        return 128 + (signal.SIGTERM if self.signum == getattr(signal, "SIGUSR1", None) else self.signum)


class Stop:
    """While it is entered, the first signal sets `signum`; a second Ctrl-C ends the process at once.

    Files are written aside and renamed, so that also then the last checkpoint on the disk is whole. Outside the main thread,
    where Python allows no handlers, signals stay as they are.

    Args:
        tell: another process of the run that is to stop too, notified by SIGUSR1; all others are notified between steps.

    Attributes:
        signum: the signal that has come, or 0.

    Example:
        >>> with Stop() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.signum == signal.SIGTERM
        True
    """

    def __init__(self, tell: int | None = None) -> None:
        self.signum, self.tell = 0, tell
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            # One that the caller ignores, as nohup does, stays ignored.
            heard = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
            self._before = {signum: signal.signal(signum, self._handle) for signum in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == 0 and self.tell is not None:
            with suppress(OSError):
                os.kill(self.tell, signal.SIGUSR1)
        if signum == signal.SIGINT:
            self._interrupts += 1
        self.signum = self.signum or signum
        if self._interrupts == 2:
            leave("interrupted twice: stopped without saving; the last checkpoint stands", 130)


class Unwind(Stop):
    """While it is entered, the first signal raises `Interrupted` with a message; for work that has nothing to save.

    If the exception has not ended the process after some seconds, because it landed where a lock is held or a library catches it,
    the process ends without it: only on the command line, where the process is the run's own.

    Args:
        message: of the exception.
        own_process: whether the process may be ended.
    """

    def __init__(self, message: str, own_process: bool = False) -> None:
        super().__init__()
        self.message, self.own_process = message, own_process

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum != signal.SIGINT:
            return
        interrupted = Interrupted(self.message, signum)
        if self.signum:
            leave(self.message, interrupted.status)
        self.signum = signum
        if self.own_process:
            timer = threading.Timer(GRACE, leave, (self.message, interrupted.status))
            timer.daemon = True
            timer.start()
        raise interrupted


def leave(message: str, status: int) -> None:
    """End the process now: no handler, no lock, no buffer of Python's can delay it."""
    show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    os.write(2, f"{show_cursor}nextpixel: {message}\n".encode())
    os._exit(status)
