"""What an interrupted compression has finished, beside the file it was to become.

    magic 8 | SHA-256 of the work 32 | error bound 8 | records: size 4, CRC-32 4, a group's streams, each after its size

The work is all that decides the result: model, images, names and settings. A journal of other work is begun anew.
"""

import struct
import zlib
from pathlib import Path

from nextpixel.coding.choosers import Stream
from nextpixel.coding.leb128 import Reader, leb128
from nextpixel.errors import InputError

MAGIC = b"\x89NPJ\r\n\x1a\n"
_START = struct.Struct("<8s32sd")
_RECORD = struct.Struct("<II")


class Journal:
    """The finished groups of a compression, in order.

    Args:
        path: of the file that is to be made; the journal stands beside it.
        work: SHA-256 of what is to be done.

    Attributes:
        groups: what is finished.
        epsilon: the error bound that it was finished with; None where nothing is, or in fast mode.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, path: Path, work: bytes) -> None:
        self.path = path.with_name(f".{path.name}.journal")
        self.work, self.groups, self.epsilon, self._file = work, [], None, None
        data = self.path.read_bytes() if self.path.is_file() else b""
        self._end = 0
        if len(data) >= _START.size and data[: len(MAGIC) + len(work)] == MAGIC + work:
            self._read(data)

    def _read(self, data: bytes) -> None:
        self.epsilon = _START.unpack_from(data)[2] or None
        self._end = _START.size
        # Up to the first record that is not whole: the machine may have been lost while it was written.
        while self._end + _RECORD.size <= len(data):
            size, crc = _RECORD.unpack_from(data, self._end)
            body = data[self._end + _RECORD.size : self._end + _RECORD.size + size]
            if len(body) != size or zlib.crc32(body) != crc:
                return
            self.groups.append(_unpack(body))
            self._end += _RECORD.size + size

    def begin(self, epsilon: float | None) -> None:
        """Open the file to go on after its last whole record, or anew."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "r+b" if self._end else "wb")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        if self._end:
            self._file.seek(self._end)
            self._file.truncate()
        else:
            self._file.write(_START.pack(MAGIC, self.work, epsilon or 0.0))
            self._file.flush()

    def add(self, streams: list[Stream]) -> None:
        """Note a finished group."""
        self.groups.append(streams)
        body = b"".join(leb128(len(part)) + part for stream in streams for part in stream)
        self._file.write(_RECORD.pack(len(body), zlib.crc32(body)) + body)
        self._file.flush()

    def close(self) -> None:
        """Let go of the file and keep it."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Delete the file: the work is done."""
        self.path.unlink(missing_ok=True)


def _unpack(body: bytes) -> list[Stream]:
    reader, parts = Reader(body), []
    while not reader.finished:
        parts.append(reader.bytes(reader.number()))
    return [Stream(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
