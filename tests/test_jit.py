"""Compiled functions on the disk: found again by the same sources, not by others, and old ones are removed."""

import os
import shutil
from pathlib import Path

import pytest

from nextpixel.compiled import jit


def folders(root):
    jit._folder.cache_clear()
    return [jit._folder(root / "nextpixel" / "compiled" / name).name for name in ("interpreter.py", "memory.py")]


def test_a_help_text_compiles_nothing_anew_and_a_function_does(tmp_path, monkeypatch):
    shutil.copytree(jit.PACKAGE, tmp_path / "nextpixel", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "PACKAGE", tmp_path / "nextpixel")
    before = folders(tmp_path)
    for name in ("cli/sample.py", "sampling/draw.py", "compiled/sample.py"):
        (tmp_path / "nextpixel" / name).open("a").write("\n# a remark\n")
    assert folders(tmp_path) == before
    (tmp_path / "nextpixel" / "compiled" / "draw_kernels.py").open("a").write("\n# a remark\n")
    after = folders(tmp_path)
    assert after[0] != before[0]
    assert after[1] == before[1]  # which does not use it
    jit._folder.cache_clear()


def test_what_kernels_are_made_from_is_all_there():
    names = {str(path.relative_to(jit.PACKAGE)) for path in jit.sources(jit.PACKAGE / "compiled" / "interpreter.py")}
    assert {f"compiled/{name}.py" for name in ("draw_kernels", "instructions", "memory", "simd", "vector_math")} < names
    assert "likelihoods/logistic_mixture.py" in names
    assert not [name for name in names if name.startswith(("cli", "models", "training"))]


def test_old_folders_are_removed(tmp_path):
    names = [f"interpreter-{k:016x}" for k in range(6)] + [f"{k:016x}" for k in range(2)]
    others = ["memory-0000000000000001", "interpreter-mine", "notes"]
    for age, name in enumerate([*names, *others]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    jit._prune(tmp_path / names[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[:3], *others])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_without_a_cache_functions_still_run(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o500)
    monkeypatch.setattr(jit, "_folder", lambda file: Path(tmp_path / "cache" / "x"))
    assert jit.jit(lambda x: 2 * x)(3) == 6
