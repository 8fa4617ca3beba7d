"""Where a table rounds up: runs of turns and their thresholds, chosen so that nothing of an image hangs by a hair.

On the grid of a table (`nextpixel.coding.tables`) a fraction counts as one from a threshold on, which need not be one half. An
encoder is free to take any of 16, and to change it at any turn. It takes the one that the boundaries of the coded symbols stay
farther from than the error bound (`nextpixel.coding.margins`) for the most turns, for the largest power of 2 of turns that this
is, and so on to the end. A turn has two boundaries, which block some of the thresholds, never all.

A run is a byte: log2 of its turns, times 16, plus the number of its threshold. Beyond the last run the threshold is one half.
Were the turns that hang by a hair listed instead, as the first version of the format had it, each would cost three bytes.
"""

import numpy as np

from nextpixel.errors import InputError

THRESHOLDS = 1 / 4 + np.arange(16) / 32
USUAL = 8  # one half
LONGEST = 2**12  # turns of a run
# From the threshold that costs nothing to those that cost most: rounding is the less exact the farther it is from one half.
_BY_COST = np.argsort(np.abs(THRESHOLDS - THRESHOLDS[USUAL]), kind="stable")


class Runs:
    """The runs of one image, chosen as its turns become known.

    Example:
        >>> free = np.ones((6, 16), dtype=bool)
        >>> free[2, USUAL] = False
        >>> runs = Runs()
        >>> runs.extend(free, whole=True).tolist(), runs.pack().hex()
        ([7, 7, 7, 7, 7, 7], '37')
    """

    def __init__(self) -> None:
        self.packed = bytearray()

    def extend(self, free: np.ndarray, whole: bool) -> np.ndarray:
        """The thresholds of the turns that follow.

        Args:
            free: which thresholds each of them may have, bool (turns, 16).
            whole: these are all that are left. If not, thresholds are returned only for those that do not hang on what comes.

        Returns:
            The numbers of their thresholds, (turns or fewer,).

        Raises:
            InputError: a turn that may have none.
        """
        turns = len(free)
        blocked = np.where(free, turns, np.arange(turns)[:, None])
        blocked = np.minimum.accumulate(blocked[::-1])[::-1]  # where each threshold is blocked next
        chosen, t = np.empty(turns, dtype=np.int64), 0
        while t < turns and (whole or t + LONGEST <= turns):
            lengths = np.minimum(blocked[t] - t, LONGEST)
            if not lengths.any():
                raise InputError("this model turns rounding errors into such errors that no archive of these images is portable")
            # What lasts to the end may be said to last longer.
            to_end = (blocked[t] == turns) & (turns - t < LONGEST)
            powers = np.where(to_end, np.ceil(np.log2(turns - t)), np.floor(np.log2(np.maximum(lengths, 1)))) - (lengths == 0)
            best = _BY_COST[powers[_BY_COST].argmax()]
            power = int(powers[best])
            self.packed.append(power << 4 | int(best))
            chosen[t : t + 2**power] = best
            t += 2**power
        return chosen[: min(t, turns)]

    def pack(self) -> bytes:
        """A byte for each run, without those at the end that say what holds anyway."""
        end = len(self.packed)
        while end and self.packed[end - 1] & 15 == USUAL:
            end -= 1
        return bytes(self.packed[:end])


def changes(packed: bytes) -> list[tuple[int, float]]:
    """At which turns a threshold begins to hold, and which, from what `Runs.pack` packed.

    Raises:
        InputError: a run that is longer than any.

    Example:
        >>> changes(bytes.fromhex("37")), changes(b"")
        ([(0, 0.46875), (8, 0.5)], [])
    """
    found, turn = [], 0
    for run in packed:
        if 1 << (run >> 4) > LONGEST:
            raise InputError(f"a list of thresholds cannot be right: no run has 2^{run >> 4} turns")
        found.append((turn, float(THRESHOLDS[run & 15])))
        turn += 1 << (run >> 4)
    return [*found, (turn, float(THRESHOLDS[USUAL]))] if packed else []
