"""A measurement: a figure with its error, and all that is needed to make it again."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import nextpixel
from nextpixel.errors import InputError, fits, shown, spelled
from nextpixel.files import read_text, write_text

MEASURED = Path(__file__).parent / "measured"  # the files that the package brings
LONGEST = 2**20  # bytes of a file


@dataclass(frozen=True)
class Measurement:
    """One figure. What is not known is None, never a guess.

    Args:
        name: of the file, without .json.
        figure: the value.
        unit: of the figure and its error.
        standard_error: how far another test set of the same kind could be; None for one image, or where it was not measured.
        images: how many it was measured on.
        command: that measures it.
        commit: of nextpixel's source; it ends in -dirty where files were changed since.
        machine: processor, threads and versions (`nextpixel.machine.machine_line`).
        seconds: that the measurement took, without training.
        seed: of what was drawn; None where nothing was.
        also: further figures and facts of the same measurement, each with its unit in its name.

    Example:
        >>> half = Measurement("half", 0.5, "bits/dim", standard_error=0.25, images=4)
        >>> half.text(".1f"), half.seed
        ('0.5 ± 0.2', None)
    """

    name: str
    figure: float
    unit: str
    standard_error: float | None = None
    images: int | None = None
    command: str | None = None
    commit: str | None = None
    machine: str | None = None
    seconds: float | None = None
    seed: int | None = None
    also: dict[str, Any] = field(default_factory=dict)

    def text(self, form: str) -> str:
        """Figure and error in Python's format `form`."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:{form}}"
        return f"{self.figure:{form}}{error}"


def finite(value: float) -> float | None:
    """A number as JSON can hold it: None in the place of nan, which the error of one image is."""
    return value if math.isfinite(value) else None


def dump(found: Measurement | Sequence[Measurement]) -> str:
    """One measurement as a JSON object, several as a list."""
    plain = asdict(found) if isinstance(found, Measurement) else [asdict(one) for one in found]
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(found: Measurement | Sequence[Measurement], target: str | Path) -> None:
    """Write measurements to a file, or to stdout where `target` is "-".

    Raises:
        InputError: the file cannot be written.
    """
    if str(target) == "-":
        sys.stdout.write(dump(found))
    else:
        write_text(target, dump(found))


def read(path: str | Path) -> Measurement:
    """The measurement of a file.

    Raises:
        InputError: it cannot be read, is no JSON object, or lacks a field, has an unknown one or one of another type.
    """
    try:
        found = json.loads(read_text(path, LONGEST))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path} as JSON: {shown(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold one measurement, a JSON object, not {type(found).__name__}")
    hints = get_type_hints(Measurement)
    if unknown := sorted(found.keys() - hints.keys()):
        raise InputError(f"{path} has an unknown field {shown(unknown[0])}: expected {', '.join(hints)}")
    for one in fields(Measurement):
        if one.name not in found:
            if one.default is MISSING and one.default_factory is MISSING:
                raise InputError(f"{path} lacks {one.name}, which every measurement has")
        elif not fits(found[one.name], hints[one.name]):
            raise InputError(f"{path}: {one.name} is {shown(repr(found[one.name]))}, expected {spelled(hints[one.name])}")
    numbers = (found["figure"], found.get("standard_error"))
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise InputError(f"{path}: figure and standard_error must be finite, not {numbers[0]} and {numbers[1]}")
    return Measurement(**found)


def read_all(folder: str | Path = MEASURED) -> dict[str, Measurement]:
    """All measurements of a folder, by name.

    Raises:
        InputError: as `read`; or a file is not called by the name of its measurement.
    """
    found = {path.stem: read(path) for path in sorted(Path(folder).glob("*.json"))}
    for name, one in found.items():
        if one.name != name:
            raise InputError(f"{Path(folder) / name}.json holds {shown(one.name)}: expected the name of the file")
    return found


def commit() -> str | None:
    """The commit of nextpixel's source; None where it is no checkout of its own, such as an installed package."""
    root = Path(nextpixel.__file__).resolve().parents[1]

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30)
        return run.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
