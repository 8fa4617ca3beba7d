"""What all tests share; and one thread per process: the networks are tiny, and processes would fight for the cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import pytest
import torch

torch.set_num_threads(1)


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
