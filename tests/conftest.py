"""What the tests share: products of parameters cut down to pairs, long files first, examples that are the same in every run."""

import hypothesis
import pairs
import pytest
from _pytest.mark.expression import Expression

# What trains or compiles for a minute comes first, so that no worker has such a file left when the others have finished.
FIRST = ("test_training", "test_compiled", "test_autoencoder", "test_archive", "test_codec_cli", "test_contract", "test_cli")


def pytest_configure(config):
    config.addinivalue_line("markers", "pairs(**factors): every pair of values of the factors, and the whole product if slow")
    # Random examples find more, but a run must not be red by chance: they are drawn anew where slow tests are.
    hypothesis.settings.register_profile("same", derandomize=True)
    if _is_quick(config):
        hypothesis.settings.load_profile("same")


def pytest_generate_tests(metafunc):
    for mark in metafunc.definition.iter_markers("pairs"):
        metafunc.parametrize(list(mark.kwargs), pairs.product(mark.kwargs, whole=not _is_quick(metafunc.config)))


def _is_quick(config):
    """Whether `-m` leaves slow tests out."""
    expression = config.getoption("markexpr")
    return bool(expression) and not Expression.compile(expression).evaluate(lambda name, /, **_: name == "slow")


def pytest_collection_modifyitems(items):
    addresses = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if addresses:  # workers could not agree on such names
        raise pytest.UsageError(f"{addresses[0]} has a name that is another one in each process: give its parameters ids")
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session", autouse=True)
def heard_signals():
    """A shell lets what it starts in the background ignore Ctrl-C, and so would the runs of these tests."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def refuse(capsys):
    """Run the command line on bad input: status 2 and exactly one line, which is returned."""

    from nextpixel.cli import main

    def check(command):
        capsys.readouterr()
        status = main(command.split() if isinstance(command, str) else [str(word) for word in command])
        out, err = capsys.readouterr()
        assert status == 2, (out, err)
        assert err.startswith("nextpixel: error: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return check
