"""Files are written aside and renamed, so that an error or a lost machine never leaves half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nextpixel.errors import InputError


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` at the end, remove it if the body raises.

    Raises:
        InputError: the folder does not exist and cannot be made, or may not be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with write_aside(folder / "note.txt") as aside:
        ...     _ = aside.write_text("whole or not at all")
        >>> (folder / "note.txt").read_text()
        'whole or not at all'
    """
    path = Path(path)
    # The suffix stays last, because Pillow and numpy choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) in (path, aside):
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; rename it to `path` at the end, remove it if the body raises.

    Raises:
        InputError: there is something at `path` already, or the folder cannot be made.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "notes"
        >>> with folder_aside(folder) as aside:
        ...     _ = (aside / "note.txt").write_text("all of them or none")
        >>> [file.name for file in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already: expected a folder that is yet to be made")
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield aside
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
