"""The memory that programs of one scan work on: kept alive, told apart from what is only read, copied for other cores.

Programs own all that they read. What was not made for them, such as a model's weights, is copied when recording ends, for its
owner may move or change it. There it is also proved that no instruction reaches beyond memory that the program knows.

How far the instructions of a program reach: the bytes that each of its operands touches, from which to which.

    begin = address + min(0, (n0 - 1) s0) + min(0, (n1 - 1) s1)          end = address + max(...) + max(...) + run

and, of a block that is repeated, both at the first and at the last time: addresses move in equal jumps, so the rest lies between.
Numbers are taken in float64: exact for all that memory can hold, and never small again where they overflow.
"""

import copy
import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.compiled.instructions import ADDRESSES, AT, COLUMNS, OPERATIONS, Block
from nextpixel.compiled.simd import REGISTER, ROWS, panel_registers, register_bytes
from nextpixel.compiled.vector_math import OPERATIONS as FUNCTIONS
from nextpixel.layers.recordable import NotRecordableError


class Memory:
    """Everything that programs of one scan point to.

    Args:
        dtype: of the numbers.
        scratch: bytes that an operation needs for itself, besides a tile.
        foreign: what belongs to others, and must not be written: the model's weights.
    """

    def __init__(self, dtype: torch.dtype, scratch: int, foreign: Iterable[Tensor] = ()) -> None:
        self.dtype = dtype
        self.written: dict[int, torch.UntypedStorage] = {}
        self.owned: dict[int, torch.UntypedStorage] = {}
        self._foreign = list(foreign)
        self._seen: list[Tensor] = []
        self._packed: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._weights: dict[int, int] = {}
        self._constants: dict[tuple[object, ...], Tensor] = {}
        self.scratch = torch.zeros(max(scratch, ROWS * 3 * REGISTER), dtype=torch.uint8)

    def read(self, tensor: Tensor) -> int:
        """The address of a tensor, which stays where it is until recording ends."""
        self._seen.append(tensor)
        return tensor.data_ptr()

    def write(self, tensor: Tensor) -> int:
        """The same of one that changes from one run to the next, by the program or by its user."""
        storage = tensor.untyped_storage()
        self.written[storage.data_ptr()] = storage
        return self.read(tensor)

    def new(self, *shape: int) -> Tensor:
        """Zeros of its own."""
        return self._own(torch.zeros(shape, dtype=self.dtype))

    def constant(self, value: float, n: int) -> Tensor:
        """A number n times."""
        return self._constant(self.dtype, (value,) * n)

    def settings(self, *values: float) -> int:
        """The address of some numbers in float64."""
        return self._constant(torch.float64, values).data_ptr()

    def _constant(self, dtype: torch.dtype, values: tuple[float, ...]) -> Tensor:
        if (dtype, values) not in self._constants:
            self._constants[dtype, values] = self._own(torch.tensor(values, dtype=dtype))
        return self._constants[dtype, values]

    def packed(self, weight: Tensor) -> int:
        """The address of a matrix (k, n) in the order that products read."""
        if id(weight) in self._weights:
            return self._weights[id(weight)]
        key = (weight.data_ptr(), *weight.shape, *weight.stride())
        if key not in self._packed:
            self._packed[key] = weight, self._own(_pack(weight))
        address = self._packed[key][1].data_ptr()
        self._seen.append(weight)  # while recording lasts no other object gets its id, nor comes to lie at its address
        self._weights[id(weight)] = address
        return address

    def _own(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.owned[storage.data_ptr()] = storage
        return tensor

    def close(self, programs: list[list[Block]]) -> list[list[Block]]:
        """After everything was recorded: the same programs, on memory that belongs to them alone.

        Raises:
            NotRecordableError: an instruction reaches beyond the memory that is known, writes what belongs to others or what is
                only to be read, or a matrix of a product is written too.
        """
        known = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in self._seen)}
        storages = _Storages({**known, **self.owned, **self.written}.values())
        foreign = storages.which({tensor.untyped_storage().data_ptr() for tensor in self._foreign})
        written = storages.which(self.written)
        reads: list[np.ndarray] = []
        for block in itertools.chain(*programs):
            for begin, end, writes in accesses(block, self.dtype, len(self.scratch)):
                at = storages.of(begin, end)
                if writes and (foreign[at] | ~written[at]).any():
                    raise NotRecordableError("an instruction that writes memory which is not the scan's own")
                reads.append(np.stack([at, begin, end])[:, ~written[at]])
        if any(matrix.untyped_storage().data_ptr() in self.written for matrix, _ in self._packed.values()):
            raise NotRecordableError("a product with a matrix that the scan itself writes")
        moves = self._take_over(storages, np.concatenate(reads, 1).astype(np.int64)) if reads else Relocation([])
        self._foreign, self._seen, self._packed, self._weights, self._constants = [], [], {}, {}, {}
        return [[replace(block, table=moves.table(block.table)) for block in program] for program in programs]

    def _take_over(self, storages: "_Storages", reads: np.ndarray) -> "Relocation":
        """Keep what is read: of memory that is owned already all, of other memory a copy of the part that is read."""
        owned, moves = {}, []
        for k in np.unique(reads[0]):
            storage, start = storages.storages[k], storages.storages[k].data_ptr()
            if start in self.owned:
                owned[start] = storage
                continue
            (_, begins, ends) = reads[:, reads[0] == k]
            first = (begins.min() - start) // REGISTER * REGISTER  # aligned as it was
            part = _bytes(storage)[first : ends.max() - start].clone()
            moves.append((start, start + storage.nbytes(), part.data_ptr() - (start + first)))
            owned[part.data_ptr()] = part.untyped_storage()
        self.owned = owned
        return Relocation(moves)

    @property
    def nbytes(self) -> int:
        """Of everything that programs point to."""
        return sum(storage.nbytes() for storage in (*self.owned.values(), *self.written.values())) + len(self.scratch)

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """The written memory and its contents now: `restore` brings them back for the next images."""
        return [(view, view.clone()) for view in map(_bytes, self.written.values())]

    def moved(self) -> tuple["Memory", "Relocation", Callable[[Tensor], Tensor]]:
        """The same with written memory of its own, how to move programs there, and what views of the old memory are there."""
        other = copy.copy(self)
        pairs = [(storage, _bytes(storage).clone().untyped_storage()) for storage in self.written.values()]
        other.written = {new.data_ptr(): new for _, new in pairs}
        other.scratch = self.scratch.clone()
        storages = {old.data_ptr(): new for old, new in pairs}

        def view(tensor: Tensor) -> Tensor:
            storage = storages[tensor.untyped_storage().data_ptr()]
            return torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

        moves = [(old.data_ptr(), old.data_ptr() + old.nbytes(), new.data_ptr() - old.data_ptr()) for old, new in pairs]
        return other, Relocation(moves), view


def restore(snapshot: list[tuple[Tensor, Tensor]]) -> None:
    """Bring back what `Memory.snapshot` has seen."""
    for memory, contents in snapshot:
        memory.copy_(contents)


class Relocation:
    """Moves addresses.

    Args:
        moves: (begin, end, jump) of runs of memory.
    """

    def __init__(self, moves: list[tuple[int, int, int]]) -> None:
        self.begins, self.ends, self.jumps = np.array(sorted(moves), np.int64).reshape(-1, 3).T

    def table(self, table: np.ndarray) -> np.ndarray:
        """A program's table, moved."""
        moved = table.copy()
        if len(self.begins):
            addresses = table[:, ADDRESSES]
            index = np.maximum(np.searchsorted(self.begins, addresses, side="right") - 1, 0)
            inside = (addresses >= self.begins[index]) & (addresses < self.ends[index])
            moved[:, ADDRESSES] += np.where(inside, self.jumps[index], 0)
        return moved


class _Storages:
    """Finds the storage that a span of memory lies in."""

    def __init__(self, storages: Iterable[torch.UntypedStorage]) -> None:
        self.storages = sorted(storages, key=lambda storage: storage.data_ptr())
        self.begins = np.array([storage.data_ptr() for storage in self.storages], np.float64)
        self.ends = self.begins + np.array([storage.nbytes() for storage in self.storages], np.float64)

    def of(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Which storage each run of bytes lies in.

        Raises:
            NotRecordableError: one lies in none.
        """
        at = np.searchsorted(self.begins, begin, side="right") - 1
        outside = (at < 0) | (end > self.ends[at])
        if outside.any():
            k = int(outside.argmax())
            raise NotRecordableError(f"an instruction that reaches {end[k] - begin[k]:.0f} bytes beyond its program's memory")
        return at

    def which(self, begins: Iterable[int]) -> np.ndarray:
        """Of each, whether it is one of those that begin there."""
        return np.isin(self.begins, np.array(list(begins), np.float64))


def _pack(weight: Tensor) -> Tensor:
    """A matrix in panels: a tile's columns of row 0, of row 1, and so on; then the next columns."""
    width = REGISTER // weight.element_size()
    padded = F.pad(weight, (0, -weight.shape[1] % width))
    panels = padded.split([width * registers for registers in panel_registers(padded.shape[1] // width)], 1)
    return torch.cat([panel.flatten() for panel in panels])


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


DRAWS = ("binary", "categorical", "mixture")
SYMBOL, NOISE, SETTING, FLAG = 8, 8, 8, 1


class Access(NamedTuple):
    """What one operand of some instructions touches, from which byte to which (n,), and whether it is written."""

    begin: np.ndarray
    end: np.ndarray
    writes: bool


def accesses(block: Block, dtype: torch.dtype, scratch: int) -> Iterator[Access]:
    """All that the lines of a block touch. Take them one by one: settings are read once it is known where they are.

    Args:
        block: the lines.
        dtype: of the numbers.
        scratch: bytes of memory that an operation has for itself.

    Raises:
        NotRecordableError: an operation that is none, sizes that are none, or a draw that needs more scratch memory.
    """
    codes = block.table[:, AT["operation"]]
    if block.times < 1 or not np.isin(codes, list(OPERATIONS.values())).all():
        raise NotRecordableError("an instruction that is none")
    for name, code in OPERATIONS.items():
        if (codes == code).any():
            yield from _Lines(block.table[codes == code], block.times, dtype.itemsize).accesses(name, scratch)


class _Lines:
    """Lines of one operation."""

    def __init__(self, table: np.ndarray, times: int, size: int) -> None:
        self.column = dict(zip(COLUMNS, table.T.astype(np.float64), strict=True))
        self.times, self.size = times, size
        self.n0, self.n1, self.n2, self.k = (self.column[name] for name in ("n0", "n1", "n2", "k"))

    def accesses(self, name: str, scratch: int) -> Iterator[Access]:
        sizes = (self.n0, self.n1) if name in DRAWS else (self.n0, self.n1, self.n2)
        if min(size.min() for size in sizes) < 1 or min(self.n2.min(), self.k.min()) < 0:
            raise NotRecordableError(f"{name} of no elements")
        both = ((self.n0, 0), (self.n1, 1))
        if name in DRAWS:
            yield from self._draw(name, scratch)
        elif name == "product":
            width = register_bytes() // self.size
            yield self._of("out", both, self.n2, self.size, True)
            yield self._of("a", both, self.k, self.size)
            yield self._of("b", (), self.k * np.ceil(self.n2 / width) * width, self.size)
            yield self._of("c", both, self.n2, self.size)
        elif name in ("intensity", "embedding"):
            run, of_table = (1, 1) if name == "intensity" else (self.n2, self.k * self.n2)
            yield self._of("out", both, run, self.size, True)
            yield self._of("a", both, 1, SYMBOL)
            yield self._of("b", (), of_table, self.size)
        else:
            inputs = 2 if name == "concat_elu" else FUNCTIONS[name][1]
            yield self._of("out", both, self.n2, self.size, True)
            for operand in ("a", "b", "c")[:inputs]:
                yield self._of(operand, both, self.n2, self.size, name == "concat_elu" and operand == "b")

    def _draw(self, name: str, scratch: int) -> Iterator[Access]:
        at = self.column["b_1"]
        yield Access(at, at + 2 * SETTING, False)
        first, second = np.array([(ctypes.c_double * 2).from_address(int(address)) for address in at]).T
        levels, channel, images = self.n1, self.n2, self.n0
        run, needed, symbols = np.ones(len(at)), 0.0, ()
        if name == "mixture":
            run = self.k * (1 + 2 * first + first * (first - 1) / 2)
            needed, symbols = 4 * self.k.max(), ((channel + 1, 1),)
        else:
            images = images * np.where(second == 1, 1, 2)  # guided: every image once more, without its condition
            if name == "categorical":
                run, needed = levels, levels.max()
        if needed * self.size > scratch:
            raise NotRecordableError(f"a draw that needs more than {scratch} bytes of scratch memory")
        yield self._of("out", ((images, 0), *symbols), 1, SYMBOL, True)
        yield self._of("a", ((images, 0),), run, self.size)
        yield self._of("b", ((self.n0, 0),), 1, NOISE)
        yield self._of("c", ((self.n0, 0),), 1, FLAG)

    def _of(
        self, operand: str, loops: tuple[tuple[np.ndarray, int], ...], run: object, size: int, writes: bool = False
    ) -> Access:
        """What an operand touches: runs of so many elements, in loops of so many turns along one of its strides; 0 is none."""
        address, there = self.column[operand], np.ones(len(self.n0), bool)
        if operand == "c":
            there = address != 0
        reaches = [(turns - 1) * self.column[f"{operand}_{stride}"] * size for turns, stride in loops]
        reaches.append(self.column[f"{operand}_jump"] * (self.times - 1))
        begin = address + sum(np.minimum(reach, 0) for reach in reaches)
        end = address + sum(np.maximum(reach, 0) for reach in reaches) + np.asarray(run) * size
        return Access(begin[there], end[there], writes)
