"""What an interrupted compression has finished, beside the file it was to become.

    magic 8 | SHA-256 of the work 32 | error bound 8 | records: size 4, CRC-32 4, a group's streams, each after its size

The work is all that decides the result: model, images, names and settings. A journal of other work is begun anew. What it holds
is not trusted: `nextpixel.coding.writer` decodes each group before it uses it, and measures the error bound again.
"""

import errno
import fcntl
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase, FileIO
from pathlib import Path

from nextpixel.coding.entropy.choosers import Stream
from nextpixel.coding.format.index import Reader, leb128
from nextpixel.errors import InputError

MAGIC = b"\x89NPJ\r\n\x1a\n"
_START = struct.Struct("<8s32sd")
_RECORD = struct.Struct("<II")


class Journal:
    """The finished groups of a compression, in order.

    Args:
        path: of the file that is to be made; the journal lies beside it.
        work: SHA-256 of what is to be done.

    Attributes:
        groups: what is finished, by the file.
        epsilon: the error bound that it was finished with; None where nothing is, or in fast mode.

    Raises:
        InputError: the path is no regular file, or cannot be read.
    """

    def __init__(self, path: Path, work: bytes) -> None:
        self.path = path.with_name(f".{path.name}.journal")
        self.work, self.groups, self.epsilon = work, [], None
        self._file: FileIO | None = None
        self._ends: list[int] = []  # of the records
        with self._answers("read"):
            try:
                # No link is followed, and no FIFO is waited for.
                descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise self._other("a symbolic link") from error
                raise
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise self._other("no regular file")
            with os.fdopen(descriptor, "rb") as file:
                self._read(file)

    def _other(self, what: str) -> InputError:
        return InputError(f"{self.path} is {what}, where a journal of unfinished work would be: remove it, or give another name")

    def _read(self, file: BufferedIOBase) -> None:
        size, start = os.fstat(file.fileno()).st_size, file.read(_START.size)
        if len(start) < _START.size or start[: len(MAGIC) + len(self.work)] != MAGIC + self.work:
            return
        epsilon = _START.unpack(start)[2]
        if not (math.isfinite(epsilon) and 0 <= epsilon < 1):
            return
        self.epsilon = epsilon or None
        # Up to the first record that is not whole: the machine may have been lost while it was written.
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            length, crc = _RECORD.unpack(head)
            if length > size - file.tell():
                return
            body = file.read(length)
            if len(body) != length or zlib.crc32(body) != crc:
                return
            try:
                self.groups.append(_unpack(body))
            except InputError:
                return
            self._ends.append(file.tell())

    def begin(self, epsilon: float | None, sound: int) -> None:
        """Open the file to go on after its first `sound` groups, or anew where there are none.

        Raises:
            InputError: it cannot be written, or another process writes it.
        """
        self.groups, self.epsilon = self.groups[:sound], epsilon
        with self._answers("write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not sound:
                with suppress(FileNotFoundError):
                    os.close(self._open(0))  # none is removed that another process writes
                    self.path.unlink()
            self._file = os.fdopen(self._open(0 if sound else os.O_CREAT | os.O_EXCL), "r+b", buffering=0)
            if sound:
                self._file.seek(self._ends[sound - 1])
                self._file.truncate()
            else:
                self._write(_START.pack(MAGIC, self.work, epsilon or 0.0))

    def add(self, streams: list[Stream]) -> None:
        """Note a finished group.

        Raises:
            InputError: it cannot be written: a full disk. What was noted before stays.
        """
        body = b"".join(leb128(len(part)) + part for stream in streams for part in stream)
        with self._answers("write"):
            self._write(_RECORD.pack(len(body), zlib.crc32(body)) + body)
        self.groups.append(streams)

    def close(self) -> None:
        """Close the file and keep it."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Delete the file: the work is done."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def _open(self, flags: int) -> int:
        """A descriptor that no other process has locked, and that this one has."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(f"{self.path} is in use by another process, which makes the same archive") from error
        except OSError:
            pass  # a file system without locks
        return descriptor

    @contextmanager
    def _answers(self, verb: str) -> Iterator[None]:
        """An error of the system is one line."""
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot {verb} {self.path}: {error.strerror or error}") from error


def _unpack(body: bytes) -> list[Stream]:
    """The streams of a group.

    Raises:
        InputError: there are other bytes.
    """
    reader, parts = Reader(body), []
    while not reader.finished:
        parts.append(reader.bytes(reader.number()))
    if len(parts) % 2:
        raise InputError("it is cut off")
    return [Stream(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
