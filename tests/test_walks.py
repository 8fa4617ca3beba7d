"""The walks of docs/design.md: the files of the package that one drawn pixel crosses, found by tracing a draw."""

import inspect
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic

import nextpixel
from nextpixel.compiled.interpreter import run
from nextpixel.scan.raster import Draw

ROOT = Path(nextpixel.__file__).parent
HEIGHT, WIDTH = 6, 7


def name_of(path):
    """A file of the package by its name in the design, or None."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else None


def listed(method):
    """The functions that the design's walk lists, by file."""
    design = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
    steps = design.split(f"One pixel by `{method}`", 1)[1].split("\n\n", 2)[1]
    walk = {}
    for file, functions in re.findall(r"^\d+\. `([\w/]+\.py)`: (.*?)(?=^\d+\. |\Z)", steps, re.MULTILINE | re.DOTALL):
        walk.setdefault(file, set()).update(name.split(".")[-1] for name in re.findall(r"`([\w.]+)`", functions))
    return walk


class Trace:
    """The functions of the package that are called while it is switched on, by file."""

    def __init__(self):
        self.called = {}

    def switch(self, on):
        sys.setprofile(self if on else None)

    def __call__(self, frame, event, argument):
        if event == "call" and (file := name_of(frame.f_code.co_filename)):
            self.called.setdefault(file, set()).add(frame.f_code.co_name)


def compiled_from(function, found=None):
    """The functions of the package that numba has compiled a function from, itself included, by file."""
    found = {} if found is None else found
    python = getattr(function, "py_func", None) or getattr(function, "_defn", function)
    if isinstance(python, type):
        for method in vars(python).values():
            if inspect.isfunction(method):
                compiled_from(method, found)
        return found
    file = name_of(python.__code__.co_filename)
    if file is None or python.__name__ in found.setdefault(file, set()):
        return found
    found[file].add(python.__name__)
    codes, used = [python.__code__], set()
    while codes:
        code = codes.pop()
        used |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    for name in used:
        value = python.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            if file := name_of(getattr(value, "__file__", None) or ""):
                found.setdefault(file, set()).update(used & set(vars(value)))
        elif isinstance(value, Dispatcher | _Intrinsic | types.FunctionType | type):
            compiled_from(value, found)
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield nextpixel.GatedPixelCNN(shape=(1, HEIGHT, WIDTH), levels=4, features=8, blocks=2)
    torch.set_num_threads(before)


def test_one_pixel_by_cached_crosses_six_files(model, monkeypatch):
    """From the draw of the last symbol but one to that of the last: a row whose views are made."""
    trace, drawn, original = Trace(), [], Draw.__call__

    def draw(*args):
        symbol = original(*args)
        drawn.append(symbol)
        trace.switch(len(drawn) == HEIGHT * WIDTH - 1)
        return symbol

    monkeypatch.setattr(Draw, "__call__", draw)
    model.sample(2, method="cached")
    assert len(drawn) == HEIGHT * WIDTH
    walk = listed("cached")
    assert set(trace.called) == set(walk)
    assert all(functions <= trace.called[file] for file, functions in walk.items())
    assert len(walk) <= 6


def test_one_pixel_by_compiled_crosses_ten_files(model):
    """The last row, which is one program: what runs in Python, and what numba has compiled the interpreter from."""
    trace = Trace()
    model.sample(2, method="compiled")  # recorded and compiled
    model.sample(2, method="compiled", progress=lambda done, total: trace.switch(done == total - 1))
    kernels, walk = compiled_from(run), listed("compiled")
    called = {file: trace.called.get(file, set()) | kernels.get(file, set()) for file in (*trace.called, *kernels)}
    assert set(called) == set(walk)
    assert all(functions <= called[file] for file, functions in walk.items())
    assert len(walk) <= 10
