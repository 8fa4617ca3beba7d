"""Where a verb cannot write, or its run is not what it should be: one line, status 2, and no half file."""

import errno
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_runs import LEVELS, make_run

import nextpixel
from nextpixel.cli import main
from nextpixel.data import raw
from nextpixel.errors import InputError

WRITERS = {
    "sample a picture": "sample RUN -n 2 --out {}/x.png",
    "sample numbers": "sample RUN -n 2 --out {}/x.npy",
    "sample an archive": "sample RUN -n 2 --out {}/x.npz",
    "complete a picture": "complete RUN --image IMAGES -n 1 --out {}/x.png",
    "complete numbers": "complete RUN --image IMAGES -n 1 --out {}/x.npz",
    "interpolate": "interpolate RUN --from 1 --to 2 -n 1 --steps 2 -o {}/x.npy",
    "evaluate": "evaluate RUN --data IMAGES --csv {}/x.csv",
    "inspect": "inspect RUN --size 5x5 --out {}/x.png",
}
VERBS = ("sample RUN", "complete RUN --image IMAGES", "interpolate RUN --from 1 --to 2", "evaluate RUN", "inspect RUN", "bench")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks") / "run"
    make_run(folder)
    images = np.random.default_rng(0).integers(LEVELS, size=(2, 8, 8))
    np.savez(folder.parent / "images.npz", images=images, labels=np.array([3, 4]), levels=LEVELS)
    return folder


def words(command, run, folder=""):
    command = command.replace("RUN", str(run)).replace("IMAGES", str(run.parent / "images.npz"))
    return command.format(folder).split()


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk: for root only."""
    made = []

    def mount(options):
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode != 0:
            pytest.skip("nothing can be mounted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("what", WRITERS)
def test_a_disk_that_is_full_and_one_that_is_not_to_be_written_to(run, disk, refuse, what):
    folder = disk("size=4k")
    (folder / "filler").write_bytes(b"x" * 4096)
    assert re.search(r"cannot write .*x\.\w+: No space left on device\n", refuse(words(WRITERS[what], run, folder)))
    assert os.listdir(folder) == ["filler"]
    folder = disk("ro")
    assert "cannot write" in refuse(words(WRITERS[what], run, folder))
    assert "Read-only file system" in refuse(words(WRITERS[what], run, folder / "inside")) or not os.access(folder, os.W_OK)


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_any_error_while_the_result_is_written(run, tmp_path, refuse, monkeypatch, what, call):
    from nextpixel.cli import draw, runs  # noqa: F401 (imported before os is broken)

    def fail(path, *args, **options):
        if call == "fsync" or "partial" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **options)

    real = getattr(os, call)
    monkeypatch.setattr(os, call, fail)
    assert re.search(r"cannot write .*x\.\w+: Input/output error\n", refuse(words(WRITERS[what], run, tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", WRITERS)
def test_what_cannot_be_written_is_refused_before_any_work(run, tmp_path, refuse, monkeypatch, what):
    monkeypatch.setattr("nextpixel.models.storage.load", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr("nextpixel.cli.runs.load", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").touch()
    ending = WRITERS[what].rpartition(".")[2]
    (tmp_path / f"x.{ending}").mkdir()
    assert "it is a folder" in refuse(words(WRITERS[what], run, tmp_path))
    assert "Not a directory" in refuse(words(WRITERS[what], run, tmp_path / "file"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not be written to" in refuse(words(WRITERS[what].replace("x.", "y."), run, tmp_path))


def test_bench_refuses_a_folder_that_is_a_file(tmp_path, refuse):
    (tmp_path / "file").touch()
    assert "Not a directory" in refuse(["bench", "--out", tmp_path / "file"])


def test_an_error_of_the_system_outside_of_any_file_is_one_line(refuse, monkeypatch):
    def fail():
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/some/recipe")

    monkeypatch.setattr("nextpixel.recipes.recipe_names", fail)
    assert refuse("recipes") == "nextpixel: error: /some/recipe: Input/output error\n"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")])
def test_too_little_memory_is_one_line(refuse, monkeypatch, error):
    monkeypatch.setattr("nextpixel.recipes.recipe_names", lambda: (_ for _ in ()).throw(error))
    assert "out of memory" in refuse("recipes")


def test_more_memory_than_there_is_is_one_line(run, refuse):
    assert "out of memory" in refuse(words("sample RUN -n 1000000 --size 10000x10000 --out many.npy", run))


def test_a_mistake_of_the_library_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("nextpixel.recipes.recipe_names", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])


def test_output_to_a_full_disk_is_one_line():
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-m", "nextpixel", "recipes"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "nextpixel: error: No space left on device\n")


# --- runs that are not finished, or damaged --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sample numbers", "complete numbers", "interpolate", "evaluate", "inspect"])
def test_a_run_that_is_not_finished_is_used_and_says_so_in_one_line(tmp_path, capsys, run, what):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "progress.json").write_text('{"finished": false, "best": "epoch 3 of 20"}', encoding="utf-8")
    capsys.readouterr()
    command = WRITERS[what].replace("IMAGES", str(run.parent / "images.npz"))
    assert main(words(command, unfinished, tmp_path)) == 0
    err = capsys.readouterr().err
    assert err == f"{unfinished} is not finished: these are its best weights so far, of epoch 3 of 20\n"


def forged_marginals():
    honest = np.ones((1, 8, 8, LEVELS), dtype=np.int64)
    yield "missing", None
    yield "empty", b""
    yield "no zip", b"PK\x03\x04" + bytes(50)
    yield "another key", {"x": honest}
    yield "objects", {"counts": np.array([{}, {}], dtype=object)}
    yield "another rank", {"counts": honest[0]}
    yield "numbers that are no counts", {"counts": honest.astype(float)}
    yield "negative", {"counts": -honest}
    yield "too large", {"counts": honest * 2**62}
    yield "another shape", {"counts": honest[:, :4]}
    yield "nothing", {"counts": honest[:0]}


@pytest.mark.parametrize("what", dict(forged_marginals()))
def test_a_hostile_marginal_is_one_line(tmp_path, run, refuse, what):
    marginal = dict(forged_marginals())[what]
    forged = tmp_path / "run"
    shutil.copytree(run, forged)
    (forged / "marginal.npz").unlink()
    if isinstance(marginal, bytes):
        (forged / "marginal.npz").write_bytes(marginal)
    elif marginal is not None:
        np.savez(forged / "marginal.npz", **marginal)
    assert "marginal" in refuse(words("evaluate RUN --csv {}/x.csv", forged, tmp_path))
    assert not (tmp_path / "x.csv").exists()


def test_a_marginal_that_is_a_fifo_or_a_bomb_is_one_line(tmp_path, run, refuse):
    forged = tmp_path / "run"
    shutil.copytree(run, forged)
    (forged / "marginal.npz").unlink()
    os.mkfifo(forged / "marginal.npz")
    assert "not a regular file" in refuse(words("evaluate RUN", forged))
    (forged / "marginal.npz").unlink()
    np.savez_compressed(forged / "marginal.npz", counts=np.zeros((1, 100, 100, 300), dtype=np.int64))  # 24 MB in 24 kB
    assert "expected at most" in refuse(words("evaluate RUN", forged))


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_computes_takes_a_device(run, tmp_path, refuse, monkeypatch, verb):
    command = words(verb, run)
    if verb == "bench":
        command += ["--out", str(tmp_path)]
    assert "--device tpu: expected auto, cpu, cuda" in refuse([*command, "--device", "tpu"])
    assert "--device cuda:x: expected auto, cpu, cuda" in refuse([*command, "--device", "cuda:x"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch finds no GPU" in refuse([*command, "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--device cuda:2: torch finds 2 GPUs, cuda:0 to cuda:1" in refuse([*command, "--device", "cuda:2"])


@pytest.mark.parametrize(("given", "expected"), [("auto", "cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1")])
@pytest.mark.parametrize("what", ["sample numbers", "complete numbers", "interpolate", "evaluate"])
def test_the_model_computes_on_the_device(run, tmp_path, monkeypatch, what, given, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    moved, real = [], nextpixel.PixelCNN.to

    def to(model, *args, **options):
        if args and isinstance(args[0], torch.device):
            moved.append(str(args[0]))
            return model
        return real(model, *args, **options)

    monkeypatch.setattr(nextpixel.PixelCNN, "to", to)
    assert main([*words(WRITERS[what], run, tmp_path), "--device", given]) == 0
    assert moved == [expected]


# --- temporary files -------------------------------------------------------------------------------------------------


def test_a_disk_for_temporary_files_that_is_too_small_is_one_line(disk, monkeypatch):
    folder = disk("size=1M")
    monkeypatch.setattr(raw, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(raw.tempfile, "tempdir", str(folder))
    with pytest.raises(InputError) as error:
        raw.allocate((4, 1024, 1024))
    assert str(error.value) == (
        f"cannot write 0.00391 GiB of decoded images to {folder}: No space left on device; "
        "let TMPDIR name a folder on a larger disk"
    )
    images = raw.allocate((4, 100, 1024))
    images[:] = 1
    assert images.sum() == 4 * 100 * 1024
    assert not os.listdir(folder)


@pytest.mark.parametrize("how", ["reserved", "written", "not on this system"])
def test_the_room_for_decoded_images_is_there_before_they_are(tmp_path, monkeypatch, how):
    monkeypatch.setattr(raw, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(raw, "CHUNK", 1000)
    monkeypatch.setattr(raw.tempfile, "tempdir", str(tmp_path))
    if how == "written":
        unsupported = OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(unsupported))
    elif how == "not on this system":
        monkeypatch.delattr(os, "posix_fallocate")
    images = raw.allocate((3, 41, 57))
    assert images.shape == (3, 41, 57)
    file = images._mmap if hasattr(images, "_mmap") else images.base
    assert len(file) >= 3 * 41 * 57
    images[:] = 7
    assert images.sum() == 7 * 3 * 41 * 57


def test_no_temporary_folder_at_all_is_one_line(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(raw, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(raw.tempfile, "gettempdir", none)
    with pytest.raises(InputError, match="to any temporary folder: No usable temporary directory found"):
        raw.allocate((3, 4, 5))
