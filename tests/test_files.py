"""Files and folders: whole or not at all, one line where they cannot be written, and one process for a folder."""

import ast
import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextpixel import files, locks
from nextpixel.errors import InputError
from nextpixel.files import current, folder_aside, read_bytes, read_text, replace_folder, write_aside, write_text
from nextpixel.locks import lock_folder

NAMES = ("one.txt", "two.txt")


@pytest.fixture
def calls(monkeypatch):
    """The names and last arguments of the calls of os that write, in order."""
    noted = []
    for name in ("fsync", "replace", "rename"):
        real = getattr(os, name)

        def call(*args, name=name, real=real):
            where = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[-1])
            noted.append((name, os.path.basename(where)))
            return real(*args)

        monkeypatch.setattr(os, name, call)
    return noted


def fill(folder, text):
    with replace_folder(folder, NAMES) as aside:
        for name in NAMES:
            (aside / name).write_text(text, encoding="utf-8")


def contents(folder):
    return [(current(folder) / name).read_text(encoding="utf-8") for name in NAMES]


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


# --- write_aside -----------------------------------------------------------------------------------------------------


def test_a_file_and_its_name_are_on_the_disk_when_it_is_written(tmp_path, calls):
    write_text(tmp_path / "note.txt", "text")
    (first, aside), *rest = calls
    assert first == "fsync"
    assert aside.endswith(".partial.txt")
    assert rest == [("replace", "note.txt"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize("made", [0o600, 0o644])
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask(tmp_path, umask, mode, made):
    before = os.umask(umask)
    try:
        with write_aside(tmp_path / "note.txt") as aside:
            aside.unlink()
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, made))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("where", ["body", "open", "fsync", "replace"])
def test_any_error_of_the_system_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch, number, where):
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    if where != "body":
        monkeypatch.setattr(os, where, fail)
    body = fail if where == "body" else list
    with pytest.raises(InputError) as error, write_aside(path):
        body()
    monkeypatch.undo()
    one_line(error, f"cannot write {path}: {os.strerror(number)}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]
    assert path.read_text(encoding="utf-8") == "old"


def test_a_full_disk_is_named_where_numpy_does_not_name_it(tmp_path, monkeypatch):
    class Full:
        f_bavail = 0

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    with pytest.raises(InputError) as error, write_aside(tmp_path / "x.npy"):
        raise OSError("128 requested and 0 written")
    one_line(error, "x.npy: No space left on device")


def test_a_file_that_is_too_large_for_the_disk(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            write_text(tmp_path / "note.txt", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(error, "note.txt: File too large")
    assert not list(tmp_path.iterdir())


def test_another_file_that_the_body_cannot_read_is_named(tmp_path):
    with pytest.raises(InputError) as error, write_aside(tmp_path / "note.txt"):
        (tmp_path / "other.txt").read_text(encoding="utf-8")
    one_line(error, "note.txt", "other.txt", "No such file")


def test_the_folder_may_vanish_meanwhile(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(InputError) as error, write_aside(folder / "note.txt"):
        shutil.rmtree(folder)
    one_line(error, "cannot write", "No such file or directory")


def test_a_broken_pipe_is_none_of_the_files(tmp_path):
    with pytest.raises(BrokenPipeError), write_aside(tmp_path / "note.txt"):
        raise BrokenPipeError


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "link", "/dev/null", "", "/", tmp_path / ("x" * 300)):
        with pytest.raises(InputError) as error:
            write_text(path, "text")
        one_line(error, "cannot write")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_it_lies_beside_its_target_and_names_may_be_long(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    path = tmp_path / ("x" * 251 + ".txt")
    with write_aside(path) as aside:
        assert aside.parent == tmp_path
        aside.write_text("text", encoding="utf-8")
    assert path.is_file()


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for text in ("first", "second", "third"):
        fill(tmp_path / "model", text)
        assert contents(tmp_path / "model") == [text, text]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_linux_exchanges_folders_in_one_step(tmp_path, calls):
    for text in ("first", "second"):
        fill(tmp_path / "model", text)
    names = [name for name, _ in calls]
    assert names == ["fsync"] * 3 + ["rename", "fsync"] + ["fsync"] * 4  # both files, their folder, and the one around it


def _killed_at(call, folder, exchange):
    """Replace a folder in a process that ends at this call that writes, as if killed; whether it came so far."""
    child = os.fork()
    if child == 0:
        count = [0]
        for name in ("fsync", "rename", "mkdir", "open", "rmdir", "unlink"):
            real = getattr(os, name)

            def counted(*args, real=real, **options):
                if count[0] == call:
                    os._exit(9)
                count[0] += 1
                return real(*args, **options)

            setattr(os, name, counted)
        if not exchange:
            files._exchange = lambda one, other: False
        fill(folder, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("exchange", [True, False])
def test_killed_at_any_call_a_reader_finds_the_old_folder_or_the_new_one(tmp_path, exchange):
    seen, call, killed = set(), 0, True
    while killed:
        folder = tmp_path / str(call) / "model"
        fill(folder, "old")
        killed = _killed_at(call, folder, exchange)
        found = contents(folder)
        assert found in (["old", "old"], ["new", "new"])
        seen.add((found[0], folder.is_dir()))
        fill(folder, "next")
        assert contents(folder) == ["next", "next"]
        with lock_folder(folder.parent):
            assert {entry.name for entry in folder.parent.iterdir()} == {"model", ".lock"}
        call += 1
    assert call > 10
    expected = {("old", True), ("new", True)}
    assert seen == (expected if exchange else expected | {("old", False)})


@pytest.mark.parametrize("exchange", [True, False])
def test_an_error_at_any_call_is_one_line_and_leaves_the_old_folder(tmp_path, monkeypatch, exchange):
    folder = tmp_path / "model"
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for name in ("fsync", "rename", "mkdir"):
        for call in range(9):
            fill(folder, "old")
            real, count = getattr(os, name), [0]

            def counted(*args, call=call, real=real, count=count):
                count[0] += 1
                if count[0] == call + 1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*args)

            with monkeypatch.context() as patch:
                patch.setattr(os, name, counted)
                message = None
                try:
                    fill(folder, "new")
                except InputError as error:
                    message = str(error)
            assert message in (None, f"cannot write {folder}: Input/output error")
            assert contents(folder) in (["old", "old"], ["new", "new"])
            assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_is_no_part_of_a_folder_is_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years", encoding="utf-8")
    (tmp_path / "file").write_text("text", encoding="utf-8")
    for path, word in ((tmp_path, "holds"), (tmp_path / "file", "Not a directory"), ("/", "name"), ("/dev/null/x", "Not a")):
        with pytest.raises(InputError) as error:
            fill(path, "text")
        one_line(error, "cannot write", word)
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years"


def test_a_link_to_a_folder_stays_one(tmp_path):
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == ["new", "new"]


def test_a_new_folder_is_on_the_disk_or_not_there(tmp_path, calls):
    with folder_aside(tmp_path / "notes") as aside:
        (aside / "note.txt").write_text("text", encoding="utf-8")
    (_, aside), *rest = calls[1:]
    assert aside.endswith(".partial")
    assert calls[0] == ("fsync", "note.txt")
    assert rest == [("rename", "notes"), ("fsync", tmp_path.name)]
    with pytest.raises(InputError) as error, folder_aside(tmp_path / "more"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    one_line(error, "more: No space left on device")
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes"]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_read_and_no_more_than_allowed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_bytes(b"x" * 100)
    for path, word in (
        (tmp_path / "fifo", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "bytes", "expected UTF-8"),
        (tmp_path / "long", "expected at most 99"),
    ):
        with pytest.raises(InputError) as error:
            read_text(path, 99)
        one_line(error, "cannot read", str(path), word)
    assert read_bytes(tmp_path / "long", 100) == b"x" * 100


# --- locks -----------------------------------------------------------------------------------------------------------

HOLD = """
import os, sys
from nextpixel.locks import lock_folder
with lock_folder(sys.argv[1]):
    if sys.argv[2] == "fork" and os.fork() == 0:
        sys.stdin.readline()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(folder, how="alone"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_by_a_living_process_is_refused(tmp_path):
    holder = hold(tmp_path)
    with pytest.raises(InputError) as error, lock_folder(tmp_path):
        pass
    one_line(error, f"{tmp_path} is in use by process {holder.pid} on ")
    with lock_folder(tmp_path, take=False):  # another process of the same run
        pass
    holder.communicate("go\n")
    with lock_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_lock_dies_with_its_process_and_not_with_the_processes_that_this_forked(tmp_path, how):
    holder = hold(tmp_path, how)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    start = time.monotonic()
    with lock_folder(tmp_path):
        assert time.monotonic() - start < 1
    holder.stdin.close()
    holder.stdout.close()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f".last.{dead.pid}-0123abcd.partial.ckpt").touch()
    (tmp_path / f".model.{dead.pid}-0123abcd.partial").mkdir()
    (tmp_path / "notes.partial").touch()
    with write_aside(tmp_path / "checkpoints" / "best.ckpt"), lock_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best.ckpt", "checkpoints", "notes.partial"]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("text", encoding="utf-8")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError) as error, lock_folder(tmp_path):
        pass
    one_line(error, "cannot write")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "text"


def test_a_disk_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked"), lock_folder(tmp_path):
        pass


# --- encodings -------------------------------------------------------------------------------------------------------


def test_every_text_file_is_read_and_written_in_utf8():
    """A file without a named encoding is read in that of the system: another on each machine."""
    found, trees = [], Path(files.__file__).parent
    for path in sorted(trees.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            binary = any("b" in ast.unparse(word) for word in node.args[1:2])
            method = isinstance(node.func, ast.Attribute)  # `open` as a method is of pictures and archives
            text = name in ("read_text", "write_text") if method else name == "open" and not binary
            if text and not any(keyword.arg == "encoding" for keyword in node.keywords):
                found.append(f"{path.relative_to(trees)}:{node.lineno}")
    assert not found
