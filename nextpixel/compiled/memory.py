"""The memory that programs of one scan work on: kept alive, told apart from what is only read, copied for other cores.

Programs own all that they read. What was not made for them, such as a model's weights, is copied when recording ends, for its
owner may move or change it. There it is also proved that no instruction reaches beyond memory that the program knows.
"""

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.compiled.kernels import REGISTER, ROWS, panel_registers
from nextpixel.compiled.lines import ADDRESSES, Block
from nextpixel.compiled.reach import accesses
from nextpixel.recording import NotRecordableError


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
