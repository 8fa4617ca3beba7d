"""numba's cache of compiled functions on disk, in a folder named by the contents of all sources that they are compiled from."""

import ast
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

PACKAGE = Path(__file__).parent.parent
# Versions of a module's folder on disk: the newest stay.
VERSIONS = 3


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` that releases Python's lock and stores its result in the user's cache.

    numba checks one file to decide whether a stored result is current. Ours use functions and constants of other files, so
    the folder is named by the contents of all files of this package that their module imports. Where no folder can be written,
    every process compiles anew.

    Example:
        >>> @jit
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(3)
        6
    """
    before, folder = numba.config.CACHE_DIR, _folder(Path(function.__code__.co_filename))
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _prune(folder)
        writable = os.access(folder, os.W_OK) and Path(function.__code__.co_filename).is_file()
    except OSError:
        writable = False
    numba.config.CACHE_DIR = str(folder)
    try:
        return numba.njit(function, nogil=True, cache=writable)
    finally:
        numba.config.CACHE_DIR = before


@lru_cache
def _folder(file: Path) -> Path:
    contents = hashlib.sha256()
    for path in sorted(sources(file)):
        contents.update(path.read_bytes() + b"\0")
    base = numba.config.CACHE_DIR or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"
    return Path(base) / f"{file.stem}-{contents.hexdigest()[:16]}"


def sources(file: Path) -> set[Path]:
    """A file, and those of this package that it imports, directly or not, for more than type checking.

    Example:
        >>> sorted(path.name for path in sources(PACKAGE / "likelihoods" / "categorical.py"))
        ['base.py', 'categorical.py', 'errors.py']
    """
    found, new = set(), {file} if file.is_file() else set()
    while new:
        found |= new
        new = {imported for path in new for imported in _imports(path)} - found
    return found


def _imports(file: Path) -> set[Path]:
    """What a file imports of this package; of `from package import module`, the module."""
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
        elif isinstance(node, ast.Import):
            names += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [(node.module, alias.name) for alias in node.names]
    return {path for module, name in names if module.split(".")[0] == PACKAGE.name and (path := _file(module, name))}


def _file(module: str, name: str) -> Path | None:
    place = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (place / f"{name}.py", place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _prune(newest: Path) -> None:
    """Remove the folders of versions that are no longer in use; an earlier release named them by a number alone."""
    module = newest.name.rpartition("-")[0]
    ours = [path for path in newest.parent.iterdir() if re.fullmatch(rf"(?:{re.escape(module)}-)?[0-9a-f]{{16}}", path.name)]
    for path in sorted(ours, key=lambda path: path.stat().st_mtime, reverse=True)[VERSIONS:]:
        shutil.rmtree(path, ignore_errors=True)
