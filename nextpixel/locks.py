"""A folder for one process alone, as long as it lives."""

import fcntl
import os
import re
import shutil
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nextpixel.errors import InputError, Notice
from nextpixel.files import PARTIAL, UNSUPPORTED, reason

LOCK = ".lock"
PATIENCE = 2  # seconds that a lock may outlive its process
_held: set[int] = set()  # descriptors of the locks that this process holds


@contextmanager
def lock_folder(folder: str | Path, take: bool = True) -> Iterator[None]:
    """Hold a folder for this process alone; the kernel frees it when the process ends, however it ends.

    What killed processes left half written in the folder is removed. Processes that share one run, as those of torchrun do,
    leave it to the first of them to `take` the lock.

    Raises:
        InputError: a living process holds it, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with lock_folder(folder), lock_folder(folder):
        ...     pass
        Traceback (most recent call last):
        nextpixel.errors.InputError: ... is in use by process ...: wait until it has ended, or give another folder
    """
    folder = Path(folder)
    descriptor = _locked(folder) if take else None
    try:
        if descriptor is not None:
            _held.add(descriptor)
            _remove_partial(folder)
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """A descriptor of the folder's lock, held; None where the file system has no locks, after a warning."""
    path, patience = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {path}: {reason(error)}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file between the two calls: its lock is worth nothing then.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            holder = " ".join(os.read(descriptor, 200).decode("utf-8", "replace").split()) or "another process"
            os.close(descriptor)
            # A process that it has forked this very moment has not let go yet.
            if _dead(holder) and time.monotonic() < patience:
                time.sleep(0.02)
                continue
            raise InputError(f"{folder} is in use by {holder}: wait until it has ended, or give another folder") from error
        except OSError as error:
            os.close(descriptor)
            if error.errno in UNSUPPORTED:
                warnings.warn(f"{folder} cannot be locked ({reason(error)}): do not use it twice at once", Notice, stacklevel=3)
                return None
            raise InputError(f"cannot write {path}: {reason(error)}") from error
        os.close(descriptor)


def _dead(holder: str) -> bool:
    match = re.fullmatch(r"process (\d+) on (.*)", holder)
    return match is not None and match[2] == socket.gethostname() and not _lives(int(match[1]))


def _remove_partial(folder: Path, deeper: bool = True) -> None:
    """Remove what processes that live no more were writing in a folder and the folders in it."""
    with suppress(OSError):  # others may remove it too
        for entry in list(folder.iterdir()):
            match = PARTIAL.fullmatch(entry.name)
            if entry.is_symlink() or not entry.is_dir():
                if match is not None and not _lives(int(match[1])):
                    entry.unlink()
            elif match is not None and not _lives(int(match[1])):
                shutil.rmtree(entry, ignore_errors=True)
            elif deeper:
                _remove_partial(entry, deeper=False)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _forget_locks() -> None:
    """In a forked process: the lock is its parent's, and must not outlive that."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
