"""A batch in pieces, one core each: nothing is exchanged between them but the news of finished rows."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from nextpixel.raster import Progress


def cut(batch: int, pieces: int) -> list[slice]:
    """As many images for one as for another, but for the last.

    Example:
        >>> [(piece.start, piece.stop) for piece in cut(10, 4)]
        [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    lanes = -(-batch // pieces)
    return [slice(start, min(start + lanes, batch)) for start in range(0, batch, lanes)]


def on_cores(work: Iterable[Callable[[], None]], cores: int) -> None:
    """Do all of it, each on a core of its own as far as there are any; torch computes on one thread in each."""
    if cores == 1:
        for piece in work:
            piece()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for result in [pool.submit(piece) for piece in work]:
                result.result()
    finally:
        torch.set_num_threads(threads)  # what threads that come later begin with


class Together:
    """Progress of all pieces: a row is finished when so many rows of pieces are."""

    def __init__(self, progress: Progress | None, pieces: int) -> None:
        self.progress, self.pieces, self.finished, self.lock = progress, pieces, 0, threading.Lock()

    def __call__(self, finished: int | None = None) -> None:
        """A row of one of them is finished."""
        if self.progress is not None:
            with self.lock:
                self.finished += 1
                if self.finished % self.pieces == 0:
                    self.progress(self.finished // self.pieces)
