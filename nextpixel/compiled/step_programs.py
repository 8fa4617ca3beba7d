"""The steps of a scan as programs, place by place, for choosers that are no instructions, such as those of the codec.

`nextpixel.compiled.sample` runs whole rows, draws included. Here the raster loop (`scan.raster`) stays as it is, with any
chooser, and a program computes the params of a place. An image's numbers do not depend on the other images in the batch.

`scan_bytes` bounds the memory of such a scan before it is allocated. Programs are as long for a wide image as for a narrow one,
and their memory grows linearly with the batch and with the width, so a few scans of small images, recorded and not run,
determine it.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextpixel.compiled.instructions import FIELD, Block, NotRecordableError
from nextpixel.compiled.recorder import Recorder
from nextpixel.compiled.row_programs import Recording, memory_for
from nextpixel.layers.pointwise import without_autocast
from nextpixel.scan.protocols import Model, ModelScanner, Scanner

# The side of the small images: they hold rows of every kind, and columns at the edges and between them.
SIDE = 2**6


class Stepped:
    """The passes of a model, for `nextpixel.scan.raster.raster`, with programs as their steps.

    Args:
        model: on the processor, in float32 or float64.

    Example:
        >>> import nextpixel
        >>> from nextpixel.scan.raster import Score, raster
        >>> model, x = nextpixel.PixelCNN(shape=(1, 4, 4), levels=2, features=4, blocks=1).eval(), torch.ones(2, 1, 4, 4).long()
        >>> score = Score(model.likelihood)
        >>> _ = raster(Stepped(model), x, score)
        >>> torch.allclose(-score.nats.sum((1, 2, 3)).float(), model.log_prob(x))
        True
    """

    def __init__(self, model: Model) -> None:
        self.model, self.likelihood, self.strides = model, model.likelihood, model.strides

    def parts(self, x: Tensor, h: Tensor | None = None) -> Iterator[tuple["_Programmed", Tensor | None]]:
        for scanner, of_pass in self.model.parts(x, h):
            yield _Programmed(scanner), of_pass


class _Programmed(Scanner):
    """A scanner whose steps are programs, recorded from another's."""

    def __init__(self, scanner: ModelScanner) -> None:
        self.scanner = scanner

    def start(self, batch: int, h: Tensor | None = None, size: tuple[int, int] | None = None) -> "_Steps":
        return _Steps(self.scanner, batch, h, size or self.scanner.shape[1:])

    def begin_row(self, cache: "_Steps", x: Tensor, i: int) -> None:
        if i:
            cache.symbols.copy_(x[:, :, i - 1 : i])
        cache.clocks((i == 0, cache.kinds[i]), i)
        cache.running = cache.steps[False, cache.kinds[i]]

    def step(self, cache: "_Steps", x: Tensor, i: int, j: int, c: int = 0) -> Tensor:
        if c:
            cache.symbols[:, c - 1, 0, j] = x[:, c - 1, i, j]
        elif j:
            cache.symbols[:, :, 0, j - 1] = x[:, :, i, j - 1]
        cache.running.column(j * cache.colours + c)
        return cache.params


class _Steps:
    """The programs of a pass: the row clock of each kind of row, and its steps, column by column and colour by colour.

    Raises:
        NotRecordableError: the scanner makes a call for which there is no instruction.
    """

    def __init__(self, scanner: ModelScanner, batch: int, h: Tensor | None, size: tuple[int, int]) -> None:
        (height, width), colours = size, scanner.likelihood.colours
        self.colours, self.kinds = colours, [scanner.row_kind(i) for i in range(height)]
        memory = memory_for(scanner)
        self.symbols = torch.zeros(batch, scanner.shape[0], 1, width, dtype=torch.long)
        self.params = torch.zeros(batch, scanner.likelihood.params, dtype=memory.dtype)
        memory.write(self.symbols)
        cache = scanner.start(batch, h, size)
        recorder, recording = Recorder(memory, self.symbols.expand(-1, -1, height, -1)), Recording(memory)

        def place(i: int, j: int) -> None:
            for c in range(colours):
                params = scanner.step(cache, recorder.symbols, i, j, c)
                with torch._C.DisableTorchFunction():
                    recorder.emit("copy", self.params, params)

        for i, kind in enumerate(self.kinds):
            recording.clock(recorder, scanner, cache, i, (i == 0, kind))
            if (False, kind) not in recording.steps:
                blocks = recorder.record_columns(partial(place, i), i, width)
                recording.steps[False, kind] = [self._by_step(block) for block in blocks]
        self.clocks, self.steps = recording.close()

    def _by_step(self, block: Block) -> Block:
        """A block by columns as a block by steps: each step ends with the instruction that writes the params."""
        ends = np.flatnonzero(block.table[:, FIELD["out"]] == self.params.data_ptr()) + 1
        if len(ends) != (len(block.bounds) - 1) * self.colours or not np.isin(block.bounds[1:], ends).all():
            raise NotRecordableError("steps whose params have no instruction of their own")
        return replace(block, first=block.first * self.colours, bounds=(0, *ends.tolist()))


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            {t.untyped_storage().data_ptr(): t for t in tree_leaves(x) if isinstance(t, Tensor)} for x in (args, result)
        )
        self.bytes += sum(tensor.untyped_storage().nbytes() for place, tensor in made.items() if place not in given)
        return result


@torch.inference_mode()
def scan_bytes(model: Model, batch: int, size: tuple[int, int], places: bool = False) -> int:
    r"""Bytes that `Stepped` takes at most for a scan of so many images of this size, besides the images, h and the chooser.

    Args:
        model: on the processor, in float32 or float64.
        batch, size: B images of (H, W).
        places: whether the encoded condition h has maps, (B, features, H, W), and not one vector for all places.

    Raises:
        NotRecordableError: the model makes a call for which there is no instruction.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1)
        >>> scan_bytes(model, 1, (8, 8)) < 2**22 < scan_bytes(model, 1, (8, 2**20))
        True
    """
    # Widths below that of a small image are not distinguished; the height counts where there are maps of all rows.
    unit = _unit(model)
    side = max(SIDE, unit) * model.strides[0]
    height, width = (size[0] + unit * model.strides[0]) / side, -(-size[1] // side)
    corners = list(product((1, 2), (1, 2), (1, 2) if places or len(model.strides) > 1 else (1,)))
    found = {corner: _small(model, side, *corner, places) for corner in corners}
    total = 0
    for corner in corners:
        # Linear in each direction, through the values at 1 and at 2.
        weights = (n - 1 if at == 2 else 2 - n for at, n in zip(corner, (batch, width, height), strict=True))
        total += math.prod(weights if len(corners) == 8 else [*weights][:2]) * found[corner]
    return math.ceil(total)


def _unit(model: Model) -> int:
    """The multiple that the sides of a pass are rounded up to: the period of the kinds of rows."""
    x = torch.zeros(1, model.shape[0], 1, 1, dtype=torch.long)
    h = None if model.condition is None else model.condition.one.new_zeros(1, model.condition.features, 1, 1)
    kinds = (scanner.row_kind for scanner, _ in model.parts(x, h))
    return max(next(i for i in count(1) if kind(i) == kind(0)) for kind in kinds)


def _small(model: Model, side: int, batch: int, width: int, height: int, places: bool) -> int:
    """Bytes of all passes over small images, so many sides wide and high."""
    size = (height * side, width * side)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.long).expand(batch, model.shape[0], *size)
    h = None
    if model.condition is not None:
        h = model.condition.one.new_zeros(1, 1, 1, 1).expand(batch, model.condition.features, *(size if places else (1, 1)))
    taken = 0
    with without_autocast(x):
        for stride, (scanner, of_pass) in zip(model.strides, Stepped(model).parts(x, h), strict=True):
            with _Allocated() as allocated:
                scanner.start(batch, of_pass, (size[0] // stride, size[1] // stride))
            taken += allocated.bytes
    return taken
