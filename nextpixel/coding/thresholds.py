"""Where a table rounds up: runs of turns and their thresholds, chosen so that nothing of an image hangs by a hair.

On the grid of a table (`nextpixel.coding.tables`) a fraction counts as one from a threshold on, which need not be one half. An
encoder is free to take any of 16, and to change it at any turn. It takes the one that the boundaries of the coded symbols stay
farther from than the error bound (`nextpixel.coding.margins`) for the most turns, for the longest of 16 lengths that this is, and
so on to the end. A turn has two boundaries, which block some of the thresholds, never all.

A run is a byte: the number of its length, times 16, plus that of its threshold. Beyond the last run the threshold is one half.
Were the turns that hang by a hair listed instead, as the first version of the format had it, each would cost three bytes.
"""

import numpy as np

from nextpixel.errors import InputError

THRESHOLDS = 1 / 4 + np.arange(16) / 32
USUAL = 8  # one half
# Turns of a run: finer where those of deep networks are.
LENGTHS = np.array([1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096])
LONGEST = int(LENGTHS[-1])
# From the threshold that costs nothing to those that cost most: rounding is the less exact the farther it is from one half.
_BY_COST = np.argsort(np.abs(THRESHOLDS - THRESHOLDS[USUAL]), kind="stable")


class Runs:
    """The runs of one image, chosen as its turns become known.

    Example:
        >>> free = np.ones((6, 16), dtype=bool)
        >>> free[2, USUAL] = False
        >>> runs = Runs()
        >>> runs.extend(free, whole=True).tolist(), runs.pack().hex()
        ([7, 7, 7, 7, 7, 7], '27')
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
            lengths = np.searchsorted(LENGTHS, blocked[t] - t, side="right") - 1
            # What lasts to the end may be said to last longer.
            lengths[blocked[t] == turns] = np.searchsorted(LENGTHS, min(turns - t, LONGEST))
            best = _BY_COST[lengths[_BY_COST].argmax()]
            if lengths[best] < 0:
                raise InputError("this model turns rounding errors into such errors that no archive of these images is portable")
            self.packed.append(int(lengths[best] << 4 | best))
            chosen[t : t + LENGTHS[lengths[best]]] = best
            t += LENGTHS[lengths[best]]
        return chosen[: min(t, turns)]

    def pack(self) -> bytes:
        """A byte for each run, without those at the end that say what holds anyway."""
        end = len(self.packed)
        while end and self.packed[end - 1] & 15 == USUAL:
            end -= 1
        return bytes(self.packed[:end])


def changes(packed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """At which turns a threshold begins to hold, int64, and which, from what `Runs.pack` packed.

    Example:
        >>> [found.tolist() for found in changes(bytes.fromhex("27"))], len(changes(b"")[0])
        ([[0, 8], [0.46875, 0.5]], 0)
    """
    if not packed:
        return np.empty(0, dtype=np.int64), np.empty(0)
    runs = np.frombuffer(packed, dtype=np.uint8)
    turns = np.concatenate([[0], LENGTHS[runs >> 4].cumsum()])
    return turns, np.append(THRESHOLDS[runs & 15], THRESHOLDS[USUAL])
