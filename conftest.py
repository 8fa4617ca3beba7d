"""What tests and the examples in docstrings and documents share: one thread, the same random numbers in any order, folders."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # the networks are tiny, and processes would fight for the cores; torch reads it once

import pytest

# torch is not imported here: the process that only hands out the tests would wait for it before it starts the others.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test's random numbers depend on the tests that the same worker has run before."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What computes on more threads puts their number back: tests that followed would fight for the cores."""
    import torch

    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(request: pytest.FixtureRequest) -> None:
    """Examples write files by plain names; none of them stands in the way of another, or of another run of the tests."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture(scope="session", autouse=True)
def _small_products() -> Iterator[None]:
    """Reports of runs compare their speed with the machine's, which takes seconds to measure well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextpixel.machine.SIDES", {"cpu": 64, "cuda": 64})
        yield
