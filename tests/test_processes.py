"""Several processes train one network: their gradients are those of one, they stop together, and none outlives the others."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import experiment, last, same_bits

import nextpixel
from nextpixel.cli.train import endings
from nextpixel.data.splits import load
from nextpixel.errors import InputError
from nextpixel.likelihood_run import build
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.batches import Loader, Shuffled
from nextpixel.training.objective import Likelihood
from nextpixel.training.processes import plan
from nextpixel.training.signals import Interrupted

OPTIONS = "--training.epochs 2 --training.sample_every 1 --training.samples 2 --model.features 8 --model.blocks 2 --report none"
GRADIENT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from runs import experiment
from nextpixel.data.splits import load
from nextpixel.training.batches import Loader, Shuffled
from nextpixel.training.objective import Likelihood
from nextpixel.training.processes import Agreement, make_fabric, plan
from nextpixel.likelihood_run import build
from nextpixel.training.trainer import in_memory_order

whole = experiment(batch_size=8, accumulate=2, precision="float32")
torch.manual_seed(0)
images, found = load(whole.data).train, plan(whole.training)
fabric = make_fabric(whole.training, found)
model = in_memory_order(build(whole, images).double(), whole.training, found)
objective = Likelihood(model, whole.training)
module = fabric.setup(objective)
agreement = Agreement(fabric)
assert agreement.world == 2 and agreement.all(agreement.rank) == [0, 1] and agreement.most(agreement.rank) == 1
batches = Loader(images, Shuffled(len(images), 16, 0), 0, rank=agreement.rank, world=2).epoch(0)
for k in range(2):
    with fabric.no_backward_sync(module, enabled=k == 0):
        fabric.backward(module(next(batches)) / 2)
figures = objective.validate(model, load(whole.data).validation, agreement, lambda *_: None)
if agreement.rank == 0:
    torch.save(({name: p.grad for name, p in model.named_parameters()}, figures), sys.argv[2])
"""


def command(*words):
    return [sys.executable, "-m", "nextpixel", "train", "digits", *OPTIONS.split(), *map(str, words)]


def torchrun(*words):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, words)]


def environment():
    launched = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NEXTPIXEL_PARENT")
    return {name: value for name, value in os.environ.items() if name not in launched}


def start(words):
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def children(pid):
    """The processes that a process has started, on Linux."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def when(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def trains(out, rows=2):
    metrics = out / "metrics.csv"
    return metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") > rows


def test_the_gradient_of_two_processes_is_that_of_one_with_both_batches(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(GRADIENT, encoding="utf-8")
    found = subprocess.run(
        torchrun(script, os.path.dirname(__file__), tmp_path / "found.pt"), env=environment(), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "strides" not in found.stderr
    gradients, figures = torch.load(tmp_path / "found.pt", weights_only=True)
    whole = experiment(batch_size=16, accumulate=2)
    torch.manual_seed(0)
    images = load(whole.data)
    model = build(whole, images.train).double()
    objective = Likelihood(model, whole.training)
    batches = Loader(images.train, Shuffled(len(images.train), 16, 0), 0).epoch(0)
    for _ in range(2):
        (objective(next(batches)) / 2).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-12, atol=1e-15)
    with torch.no_grad():
        expected = model.bits_per_dim(images.validation.tensor()).mean().item()
    assert figures["val/bits_per_dim"] == pytest.approx(expected, rel=1e-12)


def finished(words, out):
    found = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "strides" not in found.stderr
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of two processes."""
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return finished(command("--training.devices", 2, "--out", out), out)


@pytest.mark.slow
def test_torchrun_gives_the_number_of_processes(uninterrupted, tmp_path):
    state = last(finished(torchrun("-m", "nextpixel", *command("--out", tmp_path / "run")[3:]), tmp_path / "run"))
    assert (state["processes"], state["batch_size"], state["place"]["step"]) == (2, 64, 2 * 22)
    assert (tmp_path / "run" / "samples" / "epoch-0002.png").exists()
    assert same_bits(state, last(uninterrupted))


@pytest.mark.parametrize(("which", "signum"), [(1, signal.SIGTERM), pytest.param(0, signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(which, signum, uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(command("--training.devices", 2, "--out", out))
    when(lambda: trains(out))
    other = children(process.pid)[0]
    begun = time.monotonic()
    os.kill((process.pid, other)[which], signum)
    _, printed = process.communicate(timeout=60)
    assert time.monotonic() - begun < 20
    assert process.returncode == (130 if signum == signal.SIGINT else 143)
    assert re.fullmatch(r"nextpixel: interrupted after .*; saved to .*\n", printed)
    when(lambda: not alive(other), 5)
    found = subprocess.run(command("--training.devices", 2, "--out", out, "--resume"), env=environment(), timeout=300)
    assert found.returncode == 0
    assert same_bits(last(out), last(uninterrupted))
    assert (out / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


@pytest.mark.parametrize("which", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_with_one_line(which, tmp_path):
    out = tmp_path / "run"
    process = start(command("--training.devices", 2, "--training.epochs", 50, "--out", out))
    when(lambda: trains(out))
    pids = (process.pid, children(process.pid)[0])
    os.kill(pids[which], signal.SIGKILL)
    when(lambda: not any(map(alive, pids)), 60)
    _, printed = process.communicate(timeout=60)
    assert printed.count("\n") == 1
    assert "another process of this run has ended" in printed
    assert process.returncode == (-9 if which == 0 else 2)
    nextpixel.load(out / "model")
    assert last(out)["format"] == 1


STARTS = """
import os, sys
if "NEXTPIXEL_PARENT" in os.environ:
    sys.exit({status})
from nextpixel.training.processes import make_fabric, plan
from nextpixel.recipes.settings import TrainingSettings
settings = TrainingSettings(devices="2")
make_fabric(settings, plan(settings))
"""


@pytest.mark.parametrize(
    ("status", "expected", "line"),
    [
        (130, 130, "interrupted in another process of this run"),
        pytest.param(1, 1, "another process of this run", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_ends_before_it_connects_ends_the_run(status, expected, line, tmp_path):
    """The first process must not wait for it: connecting has a patience of days."""
    script = tmp_path / "starts.py"
    script.write_text(STARTS.format(status=status), encoding="utf-8")
    found = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr.count("\n")) == (expected, 1)
    assert found.stderr.startswith(f"nextpixel: {line}")


@pytest.mark.parametrize(("together", "status"), [(True, 0), (False, 130)])
def test_a_further_process_tells_the_first_of_a_signal_that_is_its_own(together, status, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as ended, endings():
        raise Interrupted("here", signal.SIGINT, together)
    assert ended.value.code == status


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_and_says_what_changes(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    words = command("--training.devices", 1, "--training.epochs", 3, "--out", out, "--resume")
    found = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "this run began on 2 processes and goes on with 1: a batch has 32 images instead of 64" in found.stdout
    assert last(out)["place"]["epoch"] == 3


def test_counts_of_devices_are_checked(monkeypatch):
    for name, value in {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert plan(TrainingSettings()).world == 4
    assert plan(TrainingSettings(devices=2, nodes=2)).started
    with pytest.raises(InputError, match=r"--training.devices is 3, but torchrun has started 2 processes on this machine"):
        plan(TrainingSettings(devices=3))
    with pytest.raises(InputError, match=r"--training.nodes is 3, but torchrun has started processes on 2"):
        plan(TrainingSettings(nodes=3))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan(TrainingSettings()).devices == 2
    with pytest.raises(InputError, match=r"--training.devices is 3, but this machine has 2 GPUs"):
        plan(TrainingSettings(devices=3))


def test_the_images_of_a_batch_are_shared_between_processes():
    order = Shuffled(images=100, size=16, seed=0)
    images = load(experiment().data).train
    shares = [Loader(images, order, 0, rank=rank, world=2) for rank in range(2)]
    for loader in shares:
        loader.epoch(0, first=1)
    for k, batch in enumerate(order.batches(0)[1:]):
        drawn = [loader._draws[k].positions for loader in shares]
        assert sorted(drawn[0] + drawn[1]) == sorted(batch)
        assert len(drawn[0]) == len(drawn[1])
