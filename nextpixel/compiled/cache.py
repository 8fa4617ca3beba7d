"""Compiled code is kept on the disk, where no other version of this package finds it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` that releases Python's lock and keeps its result in the user's cache.

    numba looks at one file to tell whether what it has kept is still right; a program's interpreter is made of several, so that
    their contents name the folder. Where no folder can be written, every process compiles anew.
    """
    before, folder = numba.config.CACHE_DIR, _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(function, nogil=True, cache=writable)
    finally:
        numba.config.CACHE_DIR = before


def _folder() -> Path:
    contents = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        contents.update(path.read_bytes())
    base = numba.config.CACHE_DIR or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"
    return Path(base) / contents.hexdigest()[:16]
