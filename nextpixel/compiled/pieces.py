"""A batch in pieces, one core each: nothing is exchanged between them but the news of finished rows."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait

import torch

from nextpixel.progress import Progress


def cut(batch: int, pieces: int) -> list[slice]:
    """As many images for one as for another, but for the last.

    Example:
        >>> [(piece.start, piece.stop) for piece in cut(10, 4)]
        [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    lanes = -(-batch // pieces)
    return [slice(start, min(start + lanes, batch)) for start in range(0, batch, lanes)]


class Together:
    """Progress of all pieces, each of which tells its own: a row is finished when so many rows of pieces are."""

    def __init__(self, progress: Progress | None, pieces: int) -> None:
        self.progress, self.pieces, self.finished, self.lock = progress, pieces, 0, threading.Lock()
        self.stopped = False

    def __call__(self, done: int, total: int) -> None:
        """A row of one of them is finished.

        Raises:
            CancelledError: another piece has failed, or Ctrl-C: the result of this one is no longer needed.
        """
        if self.stopped:
            raise CancelledError
        if self.progress is not None:
            with self.lock:
                self.finished += 1
                if self.finished % self.pieces == 0:
                    self.progress(self.finished // self.pieces, total)


def on_cores(work: Iterable[Callable[[], None]], cores: int, report: Together) -> None:
    """Do all of it, each on a core of its own as far as there are any; torch computes on one thread in each.

    Args:
        work: of each piece, which tells `report` of its rows.
        cores: that work at once.
        report: stops the pieces, at their next row, when one fails.
    """
    if cores == 1:
        for piece in work:
            piece()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for piece in wait([pool.submit(piece) for piece in work], return_when=FIRST_EXCEPTION).done:
                    piece.result()
            except BaseException:
                report.stopped = True  # before the pool waits for all of them
                raise
    finally:
        torch.set_num_threads(threads)  # what threads that come later begin with
