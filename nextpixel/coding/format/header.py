"""The header of an archive: what must be known to decode it, as canonical JSON."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch

import nextpixel
from nextpixel.coding.entropy.tables import LEAST_BITS, MOST_BITS
from nextpixel.coding.format.embedded import canonical
from nextpixel.coding.lanes import MOST_LANES, Mode
from nextpixel.errors import InputError
from nextpixel.likelihoods.base import MAX_LEVELS

MOST_CHANNELS = 2**16
MOST_SIDE = 2**24
MOST_THREADS = 16  # which any machine may be made to start; one with more cores as many as these
LONGEST_TEXT = 200


def this_machine() -> dict[str, Any]:
    """What the last digits of a computation depend on: versions, processor and threads.

    Example:
        >>> sorted(this_machine())
        ['constriction', 'nextpixel', 'numba', 'numpy', 'processor', 'threads', 'torch']
    """
    return {
        "nextpixel": nextpixel.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "constriction": version("constriction"),
        "numba": version("numba"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True)
class Header:
    """Attributes:
    model, fingerprint: name of the architecture, and SHA-256 of its configuration and weights.
    channels, levels: of the images.
    mode: "float64" or "fast".
    lanes: images side by side when it was made.
    tile: (height, width) of tiles, or None.
    bits: of the frequency tables.
    epsilon: error bound of the margins; None in fast mode.
    made: by `this_machine`.
    """

    model: str
    fingerprint: str
    channels: int
    levels: int
    mode: Mode
    lanes: int
    tile: tuple[int, int] | None
    bits: int
    epsilon: float | None
    made: dict[str, Any] = field(default_factory=this_machine)

    def to_json(self) -> bytes:
        """Sorted keys, no spaces, ASCII."""
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Header":
        """Read and check what `to_json` wrote, here or in another version: keys that this one does not have are left out.

        Raises:
            InputError: anything else.
        """
        try:
            values = json.loads(text)
            known = {field.name: values[field.name] for field in fields(cls)}
            header = cls(**{**known, "tile": None if known["tile"] is None else tuple(known["tile"])})
            sound = canonical(values) == text and header._is_sound()
        except (ValueError, TypeError, KeyError, RecursionError):
            sound = False
        if not sound:
            raise InputError(f"{where} has a header that no version of nextpixel wrote")
        return header

    def _is_sound(self) -> bool:
        def whole(value: Any, least: int, most: int) -> bool:
            return type(value) is int and least <= value <= most

        def text(value: Any) -> bool:
            return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()

        return (
            text(self.model)
            and text(self.fingerprint)
            and whole(self.channels, 1, MOST_CHANNELS)
            and whole(self.levels, 2, MAX_LEVELS)
            and self.mode in get_args(Mode)
            and whole(self.lanes, 1, MOST_LANES)
            and (self.tile is None or (len(self.tile) == 2 and all(whole(side, 1, MOST_SIDE) for side in self.tile)))
            and whole(self.bits, LEAST_BITS, MOST_BITS)
            and (type(self.epsilon) is float and 0 < self.epsilon < 1 if self.mode == "float64" else self.epsilon is None)
            and isinstance(self.made, dict)
            and all(text(name) and (text(value) or type(value) is int) for name, value in self.made.items())
        )

    def check_machine(self, where: str) -> None:
        """Refuse an archive of fast mode that was made elsewhere: its last digits would differ, and with them all that follows.

        Raises:
            InputError: the first difference.
        """
        if self.mode != "fast":
            return
        here = this_machine()
        threads, most = self.made.get("threads"), max(MOST_THREADS, here.pop("threads"), os.cpu_count() or 1)
        for name, value in here.items():
            if self.made.get(name) != value:
                made = self.made.get(name, "that it does not name")
                raise InputError(
                    f"{where} was made in fast mode with {name} {made}, and only that decodes it: here it is {value}"
                )
        if type(threads) is not int or not 1 <= threads <= most:
            raise InputError(f"{where} was made in fast mode with {threads} threads: expected 1 to {most} on this machine")
