"""A run that is stopped anywhere goes on with the bits that it would have had: the matrix of places and signals."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from runs import column, experiment, interrupted, last, quiet, raised_at, same_bits

import nextpixel
from nextpixel.data.arrays import read_npy
from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.likelihood_run import train, write_report
from nextpixel.models import AutoregressiveModel
from nextpixel.training import loop as loops
from nextpixel.training import signals
from nextpixel.training.batches import Shuffled
from nextpixel.training.loop import Loop
from nextpixel.training.objective import Likelihood
from nextpixel.training.signals import Interrupted, Unwind

# Everything that draws random numbers: flips, stochastic bits, dropout of activations and of the condition; and accumulation.
RANDOM = {"flip": True, "binarize": "stochastic", "limit": 240}


def whole(name="gated-pixelcnn", **training):
    made = experiment(name, RANDOM, **{"accumulate": 2, "batch_size": 16, "condition_dropout": 0.2, **training})
    made.model["condition"] = "labels"
    return made


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(whole(), out, console=quiet(), report="none")
    return out


PLACES = {
    "the first step": (Likelihood, "forward", 0),
    "between two accumulated batches": (Likelihood, "forward", 4),
    "the last batch of a step": (Likelihood, "forward", 5),
    "the last step of an epoch": (Likelihood, "forward", 14),
    "the last step of the run": (Likelihood, "forward", 29),
    "the averaging": (loops.Average, "update", 9),
    "the optimiser": (torch.optim.Adam, "step", 3),
    "validation": (Likelihood, "_bits", 17),
    "while the best weights are written": (loops.Loop, "_keep", 0),
    "while a checkpoint is written": (loops, "write_checkpoint", 2),
    "a sample grid": (AutoregressiveModel, "sample", 0),
    "the second sample grid": (AutoregressiveModel, "sample", 1),
    "the loading of a batch": (Images, "__getitems__", 9),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_anywhere_costs_nothing(place, uninterrupted, tmp_path, monkeypatch):
    out, (target, name, when) = tmp_path / "run", PLACES[place]
    with raised_at(monkeypatch, target, name, when):
        error = interrupted(whole(), out, report="none")
    assert f"saved to {out}/checkpoints/last.ckpt. Go on with: nextpixel train --out {out} --resume" in str(error)
    assert error.status == 130
    assert not same_bits(last(out), last(uninterrupted))
    nextpixel.load(out / "model")  # which a run has from its first checkpoint on
    train(whole(), out, resume=True, console=quiet(), report="none")
    assert same_bits(last(out), last(uninterrupted))
    for path in ("metrics.csv", "samples/epoch-0001.png", "samples/epoch-0002.png"):
        assert (out / path).read_bytes() == (uninterrupted / path).read_bytes(), path
    assert same_bits(nextpixel.load(out).state_dict(), nextpixel.load(uninterrupted).state_dict())
    assert not list(out.rglob("*.partial*"))


def test_dropout_goes_on_where_it_was(tmp_path, monkeypatch):
    one, two = whole("pixelcnn++", epochs=1, sample_every=0), tmp_path / "two"
    train(one, tmp_path / "one", console=quiet(), report="none")
    with raised_at(monkeypatch, Likelihood, "forward", 5):
        interrupted(one, two, report="none")
    train(one, two, resume=True, console=quiet(), report="none")
    assert same_bits(last(tmp_path / "one"), last(two))


def test_accumulated_gradients_are_given_up_with_their_random_numbers(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with raised_at(monkeypatch, Likelihood, "forward", 4):
        interrupted(whole(), out, report="none")
    place = last(out)["place"]
    assert (place["step"], place["batch"]) == (2, 4)  # and not 5, of which the gradient is lost


def test_a_run_that_is_killed_before_its_first_step_can_go_on(uninterrupted, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_train", killed)
        with pytest.raises(KilledError):
            train(whole(), out, console=quiet())
    train(whole(), out, resume=True, console=quiet(), report="none")
    assert same_bits(last(out), last(uninterrupted))


def test_a_run_that_is_killed_before_its_first_checkpoint_begins_anew(uninterrupted, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    whole().save(out / "config.yaml")
    train(whole(), out, resume=True, console=quiet(), report="none")
    assert same_bits(last(out), last(uninterrupted))


def test_what_was_done_after_a_checkpoint_is_done_again_and_stands_once_in_the_metrics(uninterrupted, tmp_path, monkeypatch):
    """As after SIGKILL: rows of steps that are taken again are in the file already."""
    out, real = tmp_path / "run", Loop._save

    class KilledError(BaseException):
        pass

    def save(self, *args, **kwargs):
        real(self, *args, **kwargs)
        if self.place.step:
            self._save = lambda *_, **__: None  # no further checkpoint

    def step(self, batches, size):
        if self.place.step == 14:
            raise KilledError
        return real_step(self, batches, size)

    real_step = Loop._step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", save)
        patch.setattr(Loop, "_step", step)
        with pytest.raises(KilledError):
            train(whole(), out, console=quiet())
    assert last(out)["place"]["step"] == 8
    assert max(column(out, "step")) == 9
    train(whole(), out, resume=True, console=quiet(), report="none")
    assert same_bits(last(out), last(uninterrupted))
    assert (out / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()


def test_the_averages_are_never_mixed_up_with_the_weights(tmp_path, monkeypatch):
    """The run before this design saved exchanged or mixed weights where validation was interrupted."""
    out = tmp_path / "run"
    with raised_at(monkeypatch, Likelihood, "_bits", 17):
        interrupted(whole(), out, report="none")
    state, first = last(out), tmp_path / "first"
    assert state["place"]["phase"] == "validate"
    train(whole(steps=state["place"]["step"], schedule="constant"), first, console=quiet(), report="none")
    names = state["weights"].keys()
    assert all(torch.isfinite(state["weights"][name]).all() for name in names)
    different = [name for name in names if not torch.equal(state["weights"][name], state["average"]["weights"][name])]
    assert len(different) > len(names) // 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_other_signals_save_too_and_give_143(signum, tmp_path, monkeypatch):
    with raised_at(monkeypatch, Likelihood, "forward", 3, signum):
        assert interrupted(experiment(epochs=1), tmp_path / "run").status == 143


def test_handlers_are_put_back(tmp_path, monkeypatch):
    before = [signal.getsignal(signum) for signum in signals.SIGNALS]
    with raised_at(monkeypatch, Likelihood, "forward", 3):
        interrupted(experiment(epochs=1), tmp_path / "run")
    assert [signal.getsignal(signum) for signum in signals.SIGNALS] == before


def test_a_report_that_was_interrupted_can_be_finished_later(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with raised_at(monkeypatch, AutoregressiveModel, "complete", 0):
        error = interrupted(experiment(epochs=1, sample_every=0), out)
    assert f"Finish it with: nextpixel report {out}" in str(error)
    assert not (out / "report.md").exists()
    before = last(out)
    short = write_report(out, quiet(), "short")
    assert "This report is short" in (out / "report.md").read_text(encoding="utf-8")
    assert short.baselines == []
    full = write_report(out, quiet())
    assert full.baselines
    assert full.test.nats_per_image == short.test.nats_per_image
    assert "This report is short" not in (out / "report.md").read_text(encoding="utf-8")
    assert same_bits(before, last(out))


def test_a_signal_before_training_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with raised_at(monkeypatch, nextpixel.GatedPixelCNN, "initialise", 0):
        error = interrupted(experiment(), out)
    assert str(error) == "interrupted before training began"
    assert not out.exists()


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    script = """
import signal, time
from nextpixel.training.signals import Stop
with Stop() as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop.signum == signal.SIGINT
    signal.raise_signal(signal.SIGTERM)
    print("goes on", flush=True)
    signal.raise_signal(signal.SIGINT)
    print("never")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (130, "goes on\n")
    assert found.stderr == "nextpixel: interrupted twice: stopped without saving; the last checkpoint stands\n"


def test_an_exception_that_is_swallowed_does_not_keep_the_process(monkeypatch):
    """The signal lands where a library catches it, or in a lock: the process ends all the same."""
    script = f"""
import os, signal, time
from nextpixel.training.signals import Unwind
with Unwind("stopped here", own_process=True):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    except BaseException:
        time.sleep({signals.GRACE + 20})
"""
    begun = time.monotonic()
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - begun < signals.GRACE + 15
    assert (found.returncode, found.stderr) == (143, "nextpixel: stopped here\n")


def test_unwinding_raises_once(monkeypatch):
    with Unwind("here"), pytest.raises(Interrupted, match="here") as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.status == 143


def test_a_signal_while_a_file_is_read_is_no_damaged_file(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((2, 1, 4, 4), np.uint8))
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
    with Unwind("here"), pytest.raises(Interrupted, match="here"):
        read_npy(str(tmp_path / "a.npy"))


# --- what a folder in use, a full disk and older runs do -----------------------------------------------------------------------


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    out, found = tmp_path / "run", []
    real = Likelihood.forward

    def forward(self, batch):
        if not found:
            for resume in (False, True):
                with pytest.raises(InputError, match=r"is in use by process|is not empty") as error:
                    train(experiment(epochs=1), out, resume=resume, console=quiet())
                found.append(str(error.value))
        return real(self, batch)

    monkeypatch.setattr(Likelihood, "forward", forward)
    train(experiment(epochs=1), out, console=quiet(), report="none")
    assert all("\n" not in message for message in found)
    assert "in use" in found[1]


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    out, real, calls = tmp_path / "run", os.fsync, iter(range(10**6))

    def fsync(descriptor):
        if next(calls) > 25:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=r"cannot write .*: No space left on device") as error:
            train(whole(), out, console=quiet())
    assert "\n" not in str(error.value)
    assert last(out)["format"] == 1
    assert not list(out.rglob("*.partial*"))
    train(whole(), out, resume=True, console=quiet(), report="none")


def test_a_checkpoint_of_the_version_before_says_what_to_do(tmp_path):
    out = tmp_path / "run"
    train(experiment(epochs=1), out, console=quiet(), report="none")
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {}}, out / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match=rf"earlier version .*: begin a new run with its weights, .* --training.start {out}"):
        train(experiment(epochs=1), out, resume=True, console=quiet())
    (out / "checkpoints" / "last.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"last.ckpt is no checkpoint of a run") as error:
        train(experiment(epochs=1), out, resume=True, console=quiet())
    assert "\n" not in str(error.value)


def test_batches_follow_from_their_place_alone():
    order = Shuffled(images=100, size=16, seed=3)
    assert order.batches(5) == order.batches(5) != order.batches(6)
    used = [image for batch in order.batches(5) for image in batch]
    assert len(used) == len(set(used)) == 96
