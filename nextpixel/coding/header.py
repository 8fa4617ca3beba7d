"""The header of an archive: what must be known to decode it, as canonical JSON."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch

import nextpixel
from nextpixel.coding.lanes import MOST_LANES, Mode
from nextpixel.coding.tables import LEAST_BITS, MOST_BITS
from nextpixel.errors import InputError
from nextpixel.likelihoods.base import MAX_LEVELS

MOST_CHANNELS = 2**16
MOST_SIDE = 2**24
MOST_THREADS = 2**12  # which a decoder may be made to start


def this_machine() -> dict[str, Any]:
    """What the last digits of a computation hang on: versions, processor and threads.

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
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Header":
        """Read and check what `to_json` wrote.

        Raises:
            InputError: anything else.
        """
        try:
            values = json.loads(text)
            header = cls(**{**values, "tile": None if values["tile"] is None else tuple(values["tile"])})
            whole = header.to_json() == text and header._is_sound()
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
        if not whole:
            raise InputError(f"{where} has a header that this version of nextpixel did not write")
        return header

    def _is_sound(self) -> bool:
        def whole(value: Any, least: int, most: int) -> bool:
            return type(value) is int and least <= value <= most

        return (
            isinstance(self.model, str)
            and isinstance(self.fingerprint, str)
            and whole(self.channels, 1, MOST_CHANNELS)
            and whole(self.levels, 2, MAX_LEVELS)
            and self.mode in get_args(Mode)
            and whole(self.lanes, 1, MOST_LANES)
            and (self.tile is None or (len(self.tile) == 2 and all(whole(side, 1, MOST_SIDE) for side in self.tile)))
            and whole(self.bits, LEAST_BITS, MOST_BITS)
            and (type(self.epsilon) is float and 0 < self.epsilon < 1 if self.mode == "float64" else self.epsilon is None)
            and isinstance(self.made, dict)
            and self.made.keys() == this_machine().keys()
            and whole(self.made["threads"], 1, MOST_THREADS)
            and all(isinstance(value, str) for name, value in self.made.items() if name != "threads")
        )

    def check_machine(self, where: str) -> None:
        """Refuse an archive of fast mode that was made elsewhere: its last digits would differ, and with them all that follows.

        Raises:
            InputError: the first difference.
        """
        here = this_machine() | {"threads": self.made["threads"]}  # which a decoder sets
        for name, value in here.items() if self.mode == "fast" else ():
            if self.made[name] != value:
                raise InputError(
                    f"{where} was made in fast mode with {name} {self.made[name]}, and only that decodes it: here it is {value}"
                )
