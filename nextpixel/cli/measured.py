"""What verbs that measure share: the option --json, where tables then go, and the facts that each measurement states."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nextpixel.files import require_new

if TYPE_CHECKING:
    from rich.console import Console

    from nextpixel.results.measurement import Measurement


@dataclass
class Measured:
    """Writes the measurements of one command, and counts its seconds.

    Args:
        target: of --json: a file, "-" for stdout, or None.
        command: that was given.
    """

    target: str | None
    command: str | None
    begin: float = field(default_factory=time.perf_counter)

    def write(self, *found: Callable[..., "Measurement"]) -> None:
        """Write measurements, each as a function that takes the facts that they share: command, commit, machine and seconds."""
        if self.target is None:
            return
        from nextpixel.machine import machine_line
        from nextpixel.results.measurement import commit, write

        seconds = round(time.perf_counter() - self.begin, 3)
        facts: dict[str, Any] = {"command": self.command, "commit": commit(), "machine": machine_line(), "seconds": seconds}
        made = [one(**facts) for one in found]
        write(made[0] if len(made) == 1 else made, self.target)


def open_measured(args: Any) -> tuple[Measured, "Console"]:
    """The writer of a verb's --json, and the console for its tables.

    Raises:
        InputError: the file exists and there is no --force, or it cannot be written; asked for before any long work.
    """
    from rich.console import Console

    if args.json not in (None, "-"):
        require_new(args.json, args.get("force", False), [])
    return Measured(args.json, args.get("command")), Console(soft_wrap=True, stderr=args.json == "-")
