"""Tiny runs, for the tests of training: some seconds each, and interrupted where a test says."""

import csv
import signal
from contextlib import contextmanager

import torch
from rich.console import Console

from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.likelihood_run import train
from nextpixel.recipes import Experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.signals import Interrupted

SIZES = {"features": 8, "blocks": 2, "kernel_size": 3, "first_kernel_size": 3, "head_features": 8}
SIZES_BILSTM = {name: size for name, size in SIZES.items() if name != "kernel_size"}
SIZES_PP = {"features": 6, "blocks": 1, "stages": 2, "dropout": 0.1, "mixtures": 2}
SIZES_MULTISCALE = {"upsampler_features": 8, "stages": [{"stride": s, "name": "gated-pixelcnn", **SIZES} for s in (2, 1)]}


def experiment(name="gated-pixelcnn", data=None, **training):
    own = {"diagonal-bilstm": SIZES_BILSTM, "pixelcnn++": SIZES_PP, "multiscale": SIZES_MULTISCALE}
    sizes = dict(own.get(name, SIZES))
    settings = {"epochs": 2, "sample_every": 1, "samples": 4, "warmup": 10, "lr": 0.02, "ema": 0.9, **training}
    images = DataSettings(**{"source": "digits", "levels": 2, "binarize": "threshold", **(data or {})})
    return Experiment("test", "a tiny run", {"name": name, **sizes}, images, TrainingSettings(**settings))


def quiet():
    return Console(quiet=True)


def column(out, name):
    with open(out / "metrics.csv", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def last(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def same_bits(one, other):
    """Whether two values of checkpoints are equal to the bit; what depends on the clock is left out."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        timed = ("elapsed", "stopwatch")
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one if k not in timed)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return one == other


@contextmanager
def raised_at(monkeypatch, target, name, when, signum=signal.SIGINT, before=True):
    """In the body, the `when`-th call of a method (from 0 on) comes with a signal."""
    real, calls = getattr(target, name), iter(range(10**6))

    def call(*args, **kwargs):
        now = next(calls) == when
        if now and before:
            signal.raise_signal(signum)
        result = real(*args, **kwargs)
        if now and not before:
            signal.raise_signal(signum)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(target, name, call)
        yield


def interrupted(whole, out, **options):
    """Train until the signal that the caller has arranged; returns the exception."""
    try:
        train(whole, out, console=quiet(), **options)
    except Interrupted as error:
        return error
    except InputError:
        raise
    raise AssertionError("no signal has ended the run")
