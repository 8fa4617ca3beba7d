"""Functions compiled by numba are kept on the disk, where no other version of this package finds them."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` that releases Python's lock and keeps its result in the user's cache.

    numba looks at one file to tell whether what it has kept is still right. Ours call functions, and take up constants, of other
    files, so that the contents of the whole package name the folder. Where none can be written, every process compiles anew.

    Example:
        >>> @jit
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(3)
        6
    """
    before, folder = numba.config.CACHE_DIR, _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK) and Path(function.__code__.co_filename).is_file()
    except OSError:
        writable = False
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(function, nogil=True, cache=writable)
    finally:
        numba.config.CACHE_DIR = before


@lru_cache
def _folder() -> Path:
    contents = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        contents.update(path.read_bytes())
    base = numba.config.CACHE_DIR or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"
    return Path(base) / contents.hexdigest()[:16]
