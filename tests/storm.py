"""Signals at random moments of real runs of `nextpixel train digits`: each must be gone soon, and go on to the same bits.

    python tests/storm.py --signal SIGINT --number 200 [--load] [--processes 2] [--seed 0]

A run of one process is a fork of this one, which has imported torch, so that two hundred of them take minutes; runs of several
are started as people start them. `--load` keeps all cores busy beside them.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from runs import last, same_bits

OPTIONS = [
    "train",
    "digits",
    "--training.epochs=3",
    "--training.eval_every=1",
    "--training.sample_every=2",
    "--training.samples=4",
]
OPTIONS += ["--training.accumulate=2", "--model.features=8", "--model.blocks=2", "--data.flip=true", "--report=short"]
GONE = 5.0  # seconds that a process may take to go


def burn():
    while True:
        pass


def start(processes, words, log):
    """A run as a process: (pid, function that waits for its status)."""
    if processes > 1:
        whole = [sys.executable, "-m", "nextpixel", *words, "--training.devices", str(processes)]
        # What a shell starts in the background ignores SIGINT, and its children would too.
        heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(whole, stdout=open(log, "ab"), stderr=subprocess.STDOUT, preexec_fn=heard)  # noqa: SIM115
        return process.pid, process.wait
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        run(words, log)
    return pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(words, log):
    """In the child: the command line, as its own process would run it."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        from nextpixel.cli import main

        sys.argv = ["nextpixel", *words]  # as the program, which handles signals, and not as a function
        status = main()
    except SystemExit as error:
        status = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def descendants(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            own = [int(word) for word in file.read().split()]
    except OSError:
        return []
    return own + [further for child in own for further in descendants(child)]


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", default="SIGINT")
    parser.add_argument("--number", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import sklearn.datasets

    import nextpixel.likelihood_run  # noqa: F401

    sklearn.datasets.load_digits()
    signum, chance = getattr(signal, args.signal), random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count() if args.load else 0)]
    for burner in burners:
        burner.start()
    lasts = 0.0
    for name in ("compiles", "whole"):  # the first one may fill numba's cache
        whole, begun = folder / name, time.monotonic()
        _, wait = start(args.processes, [*OPTIONS, "--out", str(whole)], folder / f"{name}.log")
        assert wait() == 0, (folder / f"{name}.log").read_text()
        lasts = time.monotonic() - begun
    expected = last(whole)
    found = {
        "hung": 0,
        "slow": 0,
        "different": 0,
        "orphans": 0,
        "failed": 0,
        "late": 0,
        "before_saving": 0,
        "after_the_end": 0,
        "odd_status": 0,
        "slowest": 0.0,
    }
    statuses = {}
    done = 0
    while done < args.number:
        out, log = folder / f"run-{done}", folder / f"run-{done}.log"
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        pid, wait = start(args.processes, [*OPTIONS, "--out", str(out)], log)
        time.sleep(chance.uniform(0, lasts))
        family = [pid, *descendants(pid)]
        if gone(pid):
            found["late"] += 1
            lasts *= 0.95
            wait()
            continue
        os.kill(chance.choice(family) if args.processes > 1 else pid, signum)
        at = time.monotonic()
        limit = 60 if args.processes > 1 and signum == signal.SIGKILL else GONE if args.processes == 1 else 2 * GONE
        while not gone(pid) and time.monotonic() - at < 4 * limit:
            time.sleep(0.01)
        took = time.monotonic() - at
        found["slowest"] = max(found["slowest"], round(took, 2))
        found["slow"] += took > limit
        if not gone(pid):
            found["hung"] += 1
            print("hung:", out, log.read_text()[-500:])
            for one in family:
                os.kill(one, signal.SIGKILL)
        status = wait()
        statuses[status] = statuses.get(status, 0) + 1
        if status not in (0, 128 + signum, -signum):
            found["odd_status"] += 1
            print("status", status, ":", log.read_text()[-2000:], file=sys.stderr)
        until = time.monotonic() + GONE  # a process whose parent is gone notices it within seconds
        while not all(map(gone, family)) and time.monotonic() < until:
            time.sleep(0.05)
        found["orphans"] += not all(map(gone, family))
        done += 1
        if not (out / "config.yaml").is_file():
            found["before_saving"] += 1
            continue
        # A signal to the last moments of a run may come when it has ended.
        _, wait = start(args.processes, ["train", "--out", str(out), "--resume", "--report", "none"], log)
        ended = wait()
        if ended == 2 and same_bits(expected, last(out)) and "the run is finished" in log.read_text():
            found["after_the_end"] += 1
        elif ended != 0 or not (out / "checkpoints" / "last.ckpt").is_file():
            found["failed"] += 1
            print("failed:", out, log.read_text()[-1000:])
        elif not same_bits(expected, last(out)):
            found["different"] += 1
            print("different:", out, log.read_text()[-1000:])
        else:
            shutil.rmtree(out)
    for burner in burners:
        burner.kill()
    bad = sum(found[name] for name in ("hung", "slow", "different", "orphans", "failed"))
    print(json.dumps({**vars(args), "run_seconds": round(lasts, 1), **found, "statuses": statuses}))
    if not bad:
        shutil.rmtree(folder)
    return min(bad, 100)


if __name__ == "__main__":
    sys.exit(main())
