"""Files and folders are written aside and renamed: an error, a full disk or a lost machine never leaves half of one.

Each is on the disk (fsync) before it gets its name, and its name is on the disk (fsync of the folder) before a writer returns.
What is written aside lies beside its target, never in TMPDIR, because a rename between two disks is a copy.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nextpixel.errors import InputError

# Names of what is written aside: the group is the process that writes it.
PARTIAL = re.compile(r"\..*\.(\d+)-[0-9a-f]{8}\.partial(\..*)?")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
# What a system answers that cannot exchange two folders, or not these two.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)
# What a file system answers that has no locks, or no fsync of folders.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)
_unfinished: set[Path] = set()  # what it is writing aside


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; give it the name `path` at the end, remove it if the body raises.

    Its permissions are those of the umask, whatever the body made of them.

    Raises:
        InputError: there is something else than a regular file at `path`, or the file cannot be written: no such folder, no
            permission, a full disk, or any other OSError of the body.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with write_aside(folder / "note.txt") as aside:
        ...     _ = aside.write_text("whole or not at all", encoding="utf-8")
        >>> (folder / "note.txt").read_text(encoding="utf-8")
        'whole or not at all'
    """
    path = Path(path)
    require_file(path)
    # The suffix stays last, because Pillow and numpy choose the format by it.
    aside = _beside(path, path.stem, path.suffix)
    try:
        with _writing(path, aside):
            _make_folder(path.parent)
            _unfinished.add(aside)
            made = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            mode = stat.S_IMODE(os.fstat(made).st_mode)
            os.close(made)
            yield aside
            if stat.S_IMODE(os.stat(aside).st_mode) != mode:
                os.chmod(aside, mode)
            _sync(aside)
            os.replace(aside, path)
            _sync(path.parent)
    finally:
        _remove(aside)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_aside` does.

    Raises:
        InputError: as `write_aside`.
    """
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def folder_aside(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; give it the name `path` at the end, remove it if the body raises.

    Raises:
        InputError: there is something at `path` already, or the folder or what is in it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "notes"
        >>> with folder_aside(folder) as aside:
        ...     _ = (aside / "note.txt").write_text("all of them or none", encoding="utf-8")
        >>> [file.name for file in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: expected a folder that is yet to be made")
    with _filled(path) as aside:
        yield aside
        _sync_tree(aside)
        os.rename(aside, path)
        _sync(path.parent)


@contextmanager
def replace_folder(path: str | Path, holds: Collection[str]) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; exchange it for the one at `path`, if any, and remove that.

    A reader finds the old folder or the new one, at any moment and after any crash. Linux exchanges two folders in one step.
    Where a system cannot, the old one is first renamed to `.NAME.previous`: after a crash between the two renames, `current`
    finds it there, and the next `replace_folder` puts it back.

    Args:
        path: the folder.
        holds: names of what a folder at `path` may hold: nothing else is ever deleted.

    Raises:
        InputError: there is something else at `path` or in it, or the folder or what is in it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "notes"
        >>> for text in ("first", "second"):
        ...     with replace_folder(folder, ("note.txt",)) as aside:
        ...         _ = (aside / "note.txt").write_text(text, encoding="utf-8")
        >>> (folder / "note.txt").read_text(encoding="utf-8")
        'second'
    """
    named, path = path, Path(os.path.realpath(path))
    with _filled(path, named) as aside:
        _put_back(path)
        if os.path.lexists(path):
            others = sorted(set(os.listdir(path)) - {*holds, ".DS_Store"})
            others = [name for name in others if PARTIAL.fullmatch(name) is None]
            if others:
                raise InputError(f"cannot write {named}: it holds {others[0]}, which would be lost; give a new folder")
        yield aside
        _sync_tree(aside)
        try:
            if not os.path.lexists(path):
                os.rename(aside, path)
            elif not _exchange(aside, path):
                os.rename(path, _previous(path))
                os.rename(aside, path)
            _sync(path.parent)
        finally:
            _put_back(path)


def current(path: str | Path) -> Path:
    """Where the folder is that `replace_folder` last wrote at `path`: there, but for a crash between two renames."""
    path = Path(path)
    previous = _previous(Path(os.path.realpath(path)))
    return previous if not os.path.lexists(path) and previous.is_dir() else path


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """The bytes of a regular file.

    Raises:
        InputError: it cannot be read, has more than `most` bytes, or is a FIFO, a device or a socket, which may never end.

    Example:
        >>> read_bytes("/dev/zero")
        Traceback (most recent call last):
        nextpixel.errors.InputError: cannot read /dev/zero: not a regular file
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise InputError(f"cannot read {path}: it has {size} bytes, expected at most {most}")
            return file.read(size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error


def read_text(path: str | Path, most: int | None = None) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        InputError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: {error.reason} at byte {error.start}, expected UTF-8") from error


def open_regular(path: str | Path, folder: int | None = None) -> int:
    """A descriptor of a regular file to read from; of one in the folder that is open as `folder`, where that is given.

    Raises:
        OSError: it cannot be opened.
        InputError: it is something else than a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)  # opening a FIFO would wait for a writer
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise InputError(f"cannot read {path}: {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")


def require_regular(path: str | Path) -> None:
    """Make sure that reading `path` comes to an end, for those who open it themselves.

    Raises:
        InputError: it cannot be read, or is something else than a regular file.
    """
    try:
        os.close(open_regular(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error


def require_file(path: str | Path) -> None:
    """Make sure that a file can replace what is at `path`: asked for before any long work.

    Raises:
        InputError: a folder or a device is there, or the path has no name.

    Example:
        >>> require_file("/dev/null")
        Traceback (most recent call last):
        nextpixel.errors.InputError: cannot write /dev/null: not a regular file
    """
    if not Path(path).name:
        raise InputError(f"cannot write {str(path)!r}: expected the name of a file")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot write {path}: {'it is a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")


def require_new(path: str | Path, force: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Make sure that a file at `path` destroys nothing: asked for before any long work.

    Args:
        path: where it will be written.
        force: it may replace a file.
        inputs: but never one of these.

    Raises:
        InputError: as `require_writable`; or there is a file already.
    """
    require_writable(path)
    if not os.path.lexists(path):
        return
    for file in inputs:
        with suppress(OSError):
            if os.path.samefile(file, path):
                raise InputError(f"cannot write {path}: it is read too, and would be lost; give another name")
    if not force:
        raise InputError(f"{path} exists already: give another name, or --force to replace it")


def require_writable(path: str | Path) -> None:
    """Make sure that a file can be made at `path`, as far as this can be known before: asked for before any long work.

    Raises:
        InputError: as `require_file`; or its folder cannot be made, or may not be written to.

    Example:
        >>> require_writable("/dev/null/picture.png")
        Traceback (most recent call last):
        nextpixel.errors.InputError: cannot write /dev/null/picture.png: Not a directory
    """
    require_file(path)
    folder = Path(path).absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: {os.strerror(errno.ENOTDIR)}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: the folder {folder} may not be written to")


def remove_unfinished() -> None:
    """Remove what this process is writing aside at this moment: for one that a signal ends at once."""
    for aside in list(_unfinished):
        _remove(aside)


@contextmanager
def _filled(path: Path, named: str | Path | None = None) -> Iterator[Path]:
    """A new folder beside `path`, which is gone at the end unless it has got another name."""
    aside = _beside(path, path.name)
    try:
        with _writing(path if named is None else named, aside):
            _make_folder(path.parent)
            _unfinished.add(aside)
            aside.mkdir()
            yield aside
    finally:
        _remove(aside)


@contextmanager
def _writing(path: str | Path, aside: Path) -> Iterator[None]:
    """Name `path` in what is raised where the body cannot write, in one line."""
    try:
        yield
    except BrokenPipeError:  # of stdout
        raise
    except OSError as error:
        why, other = reason(error), str(error.filename or "")
        own = any(str(ours).startswith(other) for ours in (path, aside)) or other.startswith(str(aside))
        with suppress(OSError):
            # numpy and Pillow raise errors of their own where a disk is full.
            if error.errno is None and os.statvfs(aside.parent).f_bavail == 0:
                why = os.strerror(errno.ENOSPC)
        raise InputError(f"cannot write {path}: {'' if own else f'{other}: '}{why}") from error


def reason(error: OSError) -> str:
    """Why the system refuses something, in one line.

    Example:
        >>> reason(OSError(2, "No such file or directory", "x")), reason(OSError("128 requested and 0 written"))
        ('No such file or directory', '128 requested and 0 written')
    """
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # true, but of no help: a file is in the folder's place
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error


def _beside(path: Path, stem: str, suffix: str = "") -> Path:
    if not path.name:
        raise InputError(f"cannot write {str(path)!r}: expected a name")
    # Cut, because `path` may be as long as names can be.
    return path.with_name(f".{stem[:32]}.{os.getpid()}-{secrets.token_hex(4)}.partial{suffix}")


def _remove(aside: Path) -> None:
    """Remove what was written aside, if it has not got its name."""
    with suppress(OSError):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()
    _unfinished.discard(aside)


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _put_back(path: Path) -> None:
    """Undo the first of two renames, if the second did not follow; else remove the previous folder."""
    if os.path.lexists(path):
        shutil.rmtree(_previous(path), ignore_errors=True)
    elif os.path.lexists(_previous(path)):
        os.rename(_previous(path), path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(inner, name))
        _sync(Path(inner))
