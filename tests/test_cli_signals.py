"""Ctrl-C and SIGTERM at any moment: the program is gone at once, with one line, its status and no half file."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from made_runs import make_run

from nextpixel.cli import main
from nextpixel.coding import writer

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
LONG = {
    "sample": "sample {run} -n 3000 --size 24x24 --out {out}/x.npz",
    "evaluate": "evaluate {run} --batch_size 2 --csv {out}/x.csv",
}
SECONDS = 5  # in which a process must be gone


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals") / "run"
    make_run(folder)
    command = f"sample {folder} -n 1 --method cached --out {folder.parent}/warm.png"
    assert main(command.split()) == 0  # imports everything, for the forks
    return folder


def start(command, threads="2"):
    """The program as a process of its own, where signals are heeded, whatever started the tests."""
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"import sys\nfrom nextpixel.cli import main\nsys.argv = {['nextpixel', *command]!r}\nsys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_until_handled(process):
    """Wait until the program handles SIGTERM itself; before, Python has not even begun with it."""
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            if int(re.search(r"SigCgt:\s+(\w+)", file.read())[1], 16) >> (signal.SIGTERM - 1) & 1:
                return
        time.sleep(0.005)


def check_gone(process, number, out):
    """Make sure that the process ends in time, with one line and no half file; or that it was finished already."""
    sent = time.monotonic()
    printed, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < SECONDS
    left = os.listdir(out)
    if process.returncode == 0 or process.returncode == -number:  # while Python ends, all is done
        assert err == ""
        assert [name.partition(".")[0] for name in left] == ["x"], printed
    else:
        assert (process.returncode, err) == (128 + number, f"nextpixel: {WORDS[number]}\n")
        assert left in ([], ["x.npz"], ["x.csv"])


def at_random_moments(run, folder, verb, number, times, seconds):
    for k in range(times):
        out = folder / str(k)
        out.mkdir()
        process = start(LONG[verb].format(run=run, out=out).split())
        wait_until_handled(process)
        time.sleep(random.uniform(0, seconds))
        process.send_signal(number)
        check_gone(process, number, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("verb", LONG)
def test_a_signal_at_a_random_moment(run, tmp_path, verb, number):
    at_random_moments(run, tmp_path, verb, number, times=1, seconds=4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("verb", LONG)
def test_signals_at_100_random_moments(run, tmp_path, verb, number):
    at_random_moments(run, tmp_path, verb, number, times=25, seconds=12)


def forked(command, folder, prepare=lambda: None):
    """The same in a fork of the tests, which has imported everything: its status, and what it has printed to stderr."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115 (of a process that ends)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            prepare()
            sys.argv = ["nextpixel", *command.split()]
            os._exit(main())
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, (folder / "err").read_text(encoding="utf-8")


def sends(call, number):
    """Make a function of os send a signal to this process whenever it is called."""

    def sent(*args, **options):
        os.kill(os.getpid(), number)
        return real(*args, **options)

    real = getattr(os, call)
    setattr(os, call, sent)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
def test_a_signal_while_the_result_is_written_leaves_no_half_file(run, tmp_path, call, number):
    command = f"sample {run} -n 1 --method cached --out {tmp_path}/out/x.png"
    found = forked(command, tmp_path, lambda: sends(call, number))
    assert found == (128 + number, f"nextpixel: {WORDS[number]}\n")
    assert not list((tmp_path / "out").iterdir())


def test_a_signal_that_the_caller_ignores_stays_ignored(run, tmp_path):
    def prepare():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        sends("replace", signal.SIGHUP)

    command = f"sample {run} -n 1 --method cached --out {tmp_path}/out/x.png"
    assert forked(command, tmp_path, prepare) == (0, "")
    assert os.listdir(tmp_path / "out") == ["x.png"]


def test_compress_tells_what_is_finished(run, tmp_path):
    def prepare():
        writer.Writer.write = lambda *args: os.kill(os.getpid(), signal.SIGTERM)

    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), dtype=np.uint8))
    status, err = forked(f"compress {run} {tmp_path}/x.npy --label 1 -o {tmp_path}/a.npx", tmp_path, prepare)
    assert status == 143
    assert re.fullmatch(r"nextpixel: interrupted: 0 of \d groups of images are finished, .*\n", err)


def test_an_import_that_a_signal_has_cut_short_is_no_traceback(tmp_path):
    def fail():
        os.kill(os.getpid(), signal.SIGINT)

    def prepare():
        from nextpixel.cli import archives

        archives.run_compress = lambda args: swallow()

    def swallow():
        try:
            fail()
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None

    assert forked("compress x y -o z", tmp_path, prepare) == (130, "nextpixel: interrupted\n")


def test_many_signals_are_one(run, tmp_path):
    process = start(LONG["sample"].format(run=run, out=tmp_path).split())
    wait_until_handled(process)
    time.sleep(1)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    assert err in ("nextpixel: interrupted\n", "nextpixel: terminated\n")
    assert not list(tmp_path.iterdir())
