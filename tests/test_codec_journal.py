"""The journal of an unfinished compression: it spares work, and nothing in it is trusted."""

import errno
import os
import stat
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import images, tiny_model

from nextpixel import InputError, compress, decompress
from nextpixel.coding.entropy.choosers import Stream
from nextpixel.coding.format import journal as journals
from nextpixel.coding.format.index import leb128
from nextpixel.coding.format.journal import Journal
from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.writer import Settings, Writer

small = {"features": 4, "blocks": 1, "head_features": 4}


@pytest.fixture(scope="module")
def model():
    return tiny_model("pixelcnn", (1, 4, 4), 4, **small).float()


def interrupted(model, path, after, x, settings):
    """Compress until so many groups are finished, then stop: the writer's work and its journal's size."""
    made = Writer(model, x, [str(n) for n in range(len(x))], settings=settings)
    journal, add = Journal(path, made.work()), Journal.add

    def stop(streams):
        add(journal, streams)
        if len(journal.groups) == after:
            raise KeyboardInterrupt

    journal.add = stop
    with pytest.raises(KeyboardInterrupt):
        made.write(journal=journal)
    journal.close()
    return journal.path


def test_a_journal_spares_what_is_finished(model, tmp_path, monkeypatch):
    x, settings, out = images(model, 7), Settings(lanes=2), tmp_path / "a.npx"
    path = interrupted(model, out, 2, x, settings)
    encoded, encode = [], LaneCoder.encode
    monkeypatch.setattr(LaneCoder, "encode", lambda self, x, *rest: encoded.append(len(x)) or encode(self, x, *rest))
    made = Writer(model, x, [str(n) for n in range(7)], settings=settings)
    journal = Journal(out, made.work())
    assert len(journal.groups) == 2
    data = made.write(journal=journal)
    journal.close()
    journal.remove()
    assert encoded == [2, 1]
    assert not path.exists()
    assert torch.equal(decompress(model, data), x)
    monkeypatch.undo()
    assert data == compress(model, x, lanes=2)


def test_a_journal_of_other_work_is_begun_anew(model, tmp_path):
    x, settings, out = images(model, 4), Settings(lanes=1), tmp_path / "a.npx"
    interrupted(model, out, 2, x, settings)
    names = ["0", "1", "2", "3"]
    others = [
        Writer(model, x.flip(0), names, settings=settings),
        Writer(model, x, ["0", "1", "2", "4"], settings=settings),
        Writer(model, x, names, settings=replace(settings, verify=False)),
        Writer(model, x, names, settings=replace(settings, lanes=2)),
        Writer(model, x, names, settings=replace(settings, mode="fast")),
        Writer(model, x, names, settings=replace(settings, tile=(8, 8))),
        Writer(tiny_model("pixelcnn", (1, 4, 4), 4, seed=2, **small), x, names, settings=settings),
    ]
    for other in others:
        assert Journal(out, other.work()).groups == []
    assert len(Journal(out, Writer(model, x, names, settings=settings).work()).groups) == 2


def test_a_journal_is_read_up_to_where_it_broke_off(model, tmp_path):
    x, settings, out = images(model, 4), Settings(lanes=1), tmp_path / "a.npx"
    path = interrupted(model, out, 3, x, settings)
    kept = path.read_bytes()
    work = Writer(model, x, list("0123"), settings=settings).work()
    seen = set()
    for size in range(len(kept) + 1):
        path.write_bytes(kept[:size])
        seen.add(len(Journal(out, work).groups))
    assert seen == {0, 1, 2, 3}
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    made = Writer(model, x, list("0123"), settings=settings)
    journal = Journal(out, work)
    assert len(journal.groups) == 2
    assert torch.equal(decompress(model, made.write(journal=journal)), x)
    journal.close()
    assert len(Journal(out, work).groups) == 4


# --- nothing in it is trusted --------------------------------------------------------------------------------------------


def forged(path, records, epsilon=None):
    """A journal with other groups, each with a right checksum: a list of streams, or any bytes."""
    start = path.read_bytes()[:48]
    start = start if epsilon is None else start[:40] + struct.pack("<d", epsilon)
    for record in records:
        body = record if isinstance(record, bytes) else b"".join(leb128(len(p)) + p for stream in record for p in stream)
        start += struct.pack("<II", len(body), zlib.crc32(body)) + body
    path.write_bytes(start)


@pytest.mark.parametrize("verify", [True, False])
def test_whatever_a_journal_holds_the_archive_is_right(model, tmp_path, monkeypatch, verify):
    x, settings, out = images(model, 4), Settings(lanes=2, verify=verify), tmp_path / "a.npx"
    path = interrupted(model, out, 1, x, settings)
    (good,) = Journal(out, Writer(model, x, list("0123"), settings=settings).work()).groups
    expected, encoded, encode = compress(model, x, lanes=2), [], LaneCoder.encode
    monkeypatch.setattr(LaneCoder, "encode", lambda self, x, *rest: encoded.append(len(x)) or encode(self, x, *rest))

    def left():
        """How many groups are encoded with what the journal holds."""
        encoded.clear()
        made = Writer(model, x, list("0123"), settings=settings)
        journal = Journal(out, made.work())
        assert made.write(journal=journal) == expected
        journal.close()
        return len(encoded)

    for records, groups in (
        ([good], 1),
        ([good, good], 1),  # the second group has other images
        ([good[::-1]], 2),
        ([good[:1]], 2),
        ([[*good, *good]], 2),
        ([[]], 2),
        ([[Stream(b"", b"")] * 2], 2),
        ([[Stream(b"\xff" * 10**6, b"\x07" * 10**6)] * 2], 2),
        ([b"\x05"], 2),
        ([b"\x01a"], 2),  # half a stream
        ([b"\xff" * 30], 2),
        ([good, b"\x01a"], 1),
    ):
        forged(path, records)
        assert left() == groups, records
    for epsilon in (0.0, -1.0, 2.0, 1e-300, float("nan"), float("inf")):
        forged(path, [good], epsilon)
        assert left() == 2, epsilon


def test_a_journal_follows_no_link_and_waits_for_no_fifo(model, tmp_path, refuse):
    out, victim = tmp_path / "a.npx", tmp_path / "victim"
    victim.write_bytes(b"precious")
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", images(model, 2)[:, 0].numpy())
    words = ["compress", tmp_path / "model", tmp_path / "x.npy", "-o", out]
    journal = tmp_path / ".a.npx.journal"
    for make, line in (
        (lambda: journal.symlink_to(victim), "is a symbolic link, where a journal"),
        (lambda: journal.symlink_to(tmp_path / "nowhere"), "is a symbolic link, where a journal"),
        (lambda: os.mkfifo(journal), "is no regular file, where a journal"),
    ):
        make()
        assert line in refuse(words)
        journal.unlink()
    journal.mkdir()
    assert "Is a directory" in refuse(words)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
    assert not out.exists()


def test_a_journal_is_its_owners_alone(model, tmp_path):
    x, out = images(model, 2), tmp_path / "a.npx"
    os.chmod(interrupted(model, out, 1, x, Settings(lanes=1)), 0o644)  # of other work
    path = interrupted(model, out, 1, x.flip(0), Settings(lanes=1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_processes_do_not_write_one_journal(model, tmp_path):
    x, out = images(model, 2), tmp_path / "a.npx"
    made = Writer(model, x, list("01"), settings=Settings(lanes=1))
    first = Journal(out, made.work())
    first.begin(None, 0)
    with pytest.raises(InputError, match="in use by another process"):
        made.write(journal=Journal(out, made.work()))
    first.close()
    made.write(journal=Journal(out, made.work()))


def test_what_a_full_disk_leaves_is_gone_on_from(model, tmp_path, monkeypatch):
    """The journal keeps its whole records; the same command needs no more than the rest."""
    x, out = images(model, 4), tmp_path / "a.npx"
    made = Writer(model, x, list("0123"), settings=Settings(lanes=1))
    journal, written = Journal(out, made.work()), []

    class Full:
        """A file on a disk that takes half of the third record."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            written.append(len(data))
            if len(written) == 4:
                return self.file.write(data[: len(data) // 2])
            if len(written) == 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    fdopen = os.fdopen
    monkeypatch.setattr(journals.os, "fdopen", lambda fd, mode, **more: Full(fdopen(fd, mode, **more)))
    with pytest.raises(InputError, match=r"cannot write .*\.a\.npx\.journal: No space left on device"):
        made.write(journal=journal)
    journal.close()
    monkeypatch.undo()
    made = Writer(model, x, list("0123"), settings=Settings(lanes=1))
    again = Journal(out, made.work())
    assert len(again.groups) == 2
    assert torch.equal(decompress(model, made.write(journal=again)), x)
    again.close()


def test_an_unknown_device_is_not_ignored(model, tmp_path, refuse):
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", images(model, 2)[:, 0].numpy())
    for words in (
        ["compress", tmp_path / "model", tmp_path / "x.npy", "-o", tmp_path / "a.npx"],
        ["decompress", tmp_path / "a.npx"],
        ["info", tmp_path / "a.npx"],
    ):
        assert "--device" in refuse([*words, "--device", "cuda"])
