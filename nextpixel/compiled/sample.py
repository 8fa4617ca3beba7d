"""A draw by programs: what `nextpixel.scan.raster.raster` does step by step, a row at a time and on all cores.

    for each pass, for each row i:      clocks[kind of i]()     the row clock
                                        steps[kind of i]()      all its places and channels, draws included

The batch is cut into chunks that fit a core's caches. Each core scans its own chunks; they share nothing but the progress.
A distribution without a draw instruction is drawn from in torch, between steps that are programs.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from functools import partial

import torch
from torch import Tensor

from nextpixel.compiled import program_cache
from nextpixel.compiled.row_programs import RowPrograms
from nextpixel.compiled.step_programs import Stepped
from nextpixel.layers.pointwise import without_autocast
from nextpixel.progress import Count, Progress
from nextpixel.scan.evaluating import check_weights
from nextpixel.scan.job import DrawJob
from nextpixel.scan.protocols import Model
from nextpixel.scan.raster import Choose, passes, raster, scan_rows

# Images of a chunk: as many rows as fill the tiles of a product, and no more than the caches hold.
CHUNK = 16


def cut(batch: int, chunks: int) -> list[slice]:
    """A batch in at most so many chunks of equal size, but for the last.

    Example:
        >>> [(chunk.start, chunk.stop) for chunk in cut(10, 4)]
        [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    size = -(-batch // chunks)
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


class SharedProgress:
    """Progress of all chunks, each of which reports its own rows: a row counts when it is finished in every chunk."""

    def __init__(self, progress: Progress | None, chunks: int) -> None:
        self.progress, self.chunks, self.finished, self.lock = progress, chunks, 0, threading.Lock()
        self.stopped = False

    def __call__(self, done: int, total: int) -> None:
        """A row of one chunk is finished.

        Raises:
            CancelledError: another chunk has failed, or Ctrl-C: the result of this one is no longer needed.
        """
        if self.stopped:
            raise CancelledError
        if self.progress is not None:
            with self.lock:
                self.finished += 1
                if self.finished % self.chunks == 0:
                    self.progress(self.finished // self.chunks, total)


def on_cores(work: Iterable[Callable[[], None]], cores: int, report: SharedProgress) -> None:
    """Run functions in a pool of threads, each with one thread of torch's.

    Args:
        work: the functions, which report their rows.
        cores: threads of the pool; one function needs no pool.
        report: stops the others, at their next row, when one fails.
    """
    if cores == 1:
        for function in work:
            function()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for future in wait([pool.submit(function) for function in work], return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                report.stopped = True  # before the pool waits for all of them
                raise
    finally:
        torch.set_num_threads(threads)  # the default of threads that start later


def scan_steps(model: Model, chunks: Sequence[tuple[Tensor, Choose, Tensor | None]], progress: Progress | None = None) -> None:
    """Fill images as `raster` does, by compiled steps, between which a chooser chooses the symbols.

    Args:
        model: on the processor, in float32 or float64.
        chunks: of the batch, each scanned on a core of its own: images, their chooser, and their encoded condition.
        progress: as of `scan`.

    Raises:
        NotRecordableError: the model makes a call of torch for which there is no instruction.
    """
    report = SharedProgress(progress, len(chunks))
    work = [partial(raster, Stepped(model), x, choose, h, report) for x, choose, h in chunks]
    on_cores(work, len(chunks), report)


@torch.inference_mode()
def scan(model: Model, job: DrawJob, progress: Progress | None = None) -> None:
    """Fill `job.x` as `raster` does with the job's chooser.

    The images are the same but for rounding: a symbol differs where its noise is within a rounding error of a bound.

    Args:
        model: on the processor, in float32 or float64.
        job: the images.
        progress: called as by `raster`: with (rows that are finished in all images, rows), over all passes.

    Raises:
        InputError: the weights are not finite, or a symbol has no probabilities.
        NotRecordableError: the model makes a call of torch for which there is no instruction.
    """
    batch, threads = len(job.x), torch.get_num_threads()
    if job.distribution.draw_instruction(0, job.temperature) is None:
        check_weights(model)
        jobs = [job.images(chunk) for chunk in cut(batch, threads)]
        scanned = [part.scanned() for part in jobs]
        scan_steps(model, [(part.x, part.chooser(), part.h) for part in scanned], progress)
        for part, filled in zip(jobs, scanned, strict=True):
            part.finish(filled)
        return
    # As many chunks for one core as for another, and no smaller than needed.
    chunks = cut(batch, threads * -(-batch // (threads * CHUNK)))
    size, cores, report = chunks[0].stop, min(threads, len(chunks)), SharedProgress(progress, len(chunks))
    owner, weights = model if job.owner is None else job.owner, program_cache.identity(model)
    entry = None
    # Programs of an unconditional model of one pass serve every chunk: recorded once, and copied for each core.
    if job.h is None and len(model.strides) == 1:
        with without_autocast(job.x):
            entry = program_cache.take(owner, model, job.images(chunks[0]), cores, weights)
    programs = [None] * cores if entry is None else entry.programs
    work = (partial(_scan_chunks, model, job, chunks[k::cores], size, report, programs[k]) for k in range(cores))
    on_cores(work, cores, report)
    if entry is not None:
        program_cache.put_back(owner, entry)


@torch.inference_mode()
def _scan_chunks(
    model: Model, job: DrawJob, chunks: list[slice], size: int, report: SharedProgress, programs: RowPrograms | None
) -> None:
    """The work of one core: chunks, each filled up to one size."""
    with without_autocast(job.x):
        for chunk in chunks:
            images = job.images(chunk).padded(size).scanned()
            count = Count(report, scan_rows(model.strides, images.x.shape[2]))
            if programs is not None:
                programs.run(images, count)
            else:
                for coarser, stride, scanner, h in passes(model, images.x, images.h):
                    places = images.on_grid(stride, h)
                    RowPrograms(scanner, places, coarser, stride).run(places, count)
            job.x[chunk] = images.x[: chunk.stop - chunk.start]
