"""The memory plan of programs: which storages they own, copies of what they read, and a proof that they reach nothing else.

Programs own all that they read. Memory of others, such as a model's weights, is copied when recording ends, because its owner may
move or change it. At that time every instruction is also proved to stay inside the storages of its program. The bytes that an
operand touches, n0 x n1 runs at strides s0 and s1, lie between

    begin = address + min(0, (n0 - 1) s0) + min(0, (n1 - 1) s1)     and     end = address + max(...) + max(...) + run

in the first and in the last repetition of a block; addresses move by equal jumps, so the other repetitions lie between these two.
The bounds are computed in float64: exact for all addresses, and an overflow cannot wrap around to a small number.
`digest` detects whether memory holds the same numbers as before.
"""

import copy
import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.compiled.instructions import ADDRESSES, FIELD, FIELDS, OPCODES, Block, NotRecordableError
from nextpixel.compiled.jit import jit
from nextpixel.compiled.simd import REGISTER, ROWS, panel_registers, peek, register_bytes
from nextpixel.compiled.vector_math import FUNCTIONS

DRAWS = ("binary", "categorical", "mixture")
SYMBOL, NOISE, SETTING, FLAG = 8, 8, 8, 1
# Odd numbers without a pattern: 2^64 / golden ratio, and two of xxHash's primes.
PRIME_1, PRIME_2, PRIME_3 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
SHIFT, ZERO = np.uint64(29), np.uint64(0)
# The exponent bits of the numbers in a word of 64 bits: all ones where a number is infinite or NaN.
EXPONENTS = {torch.float32: (0x7F800000, 0x7F800000 << 32), torch.float64: (0x7FF << 52, 0x7FF << 52)}


class Memory:
    """Everything that the programs of one scan address.

    Args:
        dtype: of the numbers.
        scratch: bytes of scratch memory that a draw needs; a tile's are always there.
        foreign: memory of others, which no instruction may write: the model's weights.
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
        """The address of a tensor, which stays alive until recording ends."""
        self._seen.append(tensor)
        return tensor.data_ptr()

    def write(self, tensor: Tensor) -> int:
        """The same of a tensor that changes from one run to the next, by the program or by its caller."""
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
        self._seen.append(weight)  # alive until recording ends, so that neither its id nor its address is used again
        self._weights[id(weight)] = address
        return address

    def _own(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.owned[storage.data_ptr()] = storage
        return tensor

    def close(self, programs: list[list[Block]]) -> list[list[Block]]:
        """End recording: the same programs, on memory that belongs to them alone.

        Raises:
            NotRecordableError: an instruction reaches beyond its program's memory, writes memory that is foreign or only read, or
                a matrix of a product is written too.
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
        """Keep owned storages, and of other storages a copy of the part that is read."""
        owned, moves = {}, []
        for k in np.unique(reads[0]):
            storage, start = storages.storages[k], storages.storages[k].data_ptr()
            if start in self.owned:
                owned[start] = storage
                continue
            (_, begins, ends) = reads[:, reads[0] == k]
            first = (begins.min() - start) // REGISTER * REGISTER  # aligned as it was
            copied = _bytes(storage)[first : ends.max() - start].clone()
            moves.append((start, start + storage.nbytes(), copied.data_ptr() - (start + first)))
            owned[copied.data_ptr()] = copied.untyped_storage()
        self.owned = owned
        return Relocation(moves)

    @property
    def nbytes(self) -> int:
        """Of everything that programs address."""
        return sum(storage.nbytes() for storage in (*self.owned.values(), *self.written.values())) + len(self.scratch)

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """The written memory and its contents now: `restore` brings them back for the next images."""
        return [(view, view.clone()) for view in map(_bytes, self.written.values())]

    def moved(self) -> tuple["Memory", "Relocation", Callable[[Tensor], Tensor]]:
        """The same with written memory of its own, the relocation of programs to it, and a function that moves views to it."""
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
    """Bring back the contents of a `Memory.snapshot`."""
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


class Access(NamedTuple):
    """What one operand of some instructions touches, from which byte to which (n,), and whether it is written."""

    begin: np.ndarray
    end: np.ndarray
    writes: bool


def accesses(block: Block, dtype: torch.dtype, scratch: int) -> Iterator[Access]:
    """All memory that the instructions of a block touch. Check each before the next: settings are read after their bounds.

    Args:
        block: the instructions.
        dtype: of the numbers.
        scratch: bytes of scratch memory.

    Raises:
        NotRecordableError: an unknown opcode, invalid sizes, or a draw that needs more scratch memory.
    """
    opcodes = block.table[:, FIELD["opcode"]]
    if block.times < 1 or not np.isin(opcodes, list(OPCODES.values())).all():
        raise NotRecordableError("an instruction that is none")
    for name, opcode in OPCODES.items():
        if (opcodes == opcode).any():
            yield from _Operands(block.table[opcodes == opcode], block.times, dtype.itemsize).accesses(name, scratch)


class _Operands:
    """The operands of all instructions with one opcode."""

    def __init__(self, table: np.ndarray, times: int, size: int) -> None:
        self.fields = dict(zip(FIELDS, table.T.astype(np.float64), strict=True))
        self.times, self.size = times, size
        self.n0, self.n1, self.n2, self.k = (self.fields[name] for name in ("n0", "n1", "n2", "k"))

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
        at = self.fields["b_1"]
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
        address, there = self.fields[operand], np.ones(len(self.n0), bool)
        if operand == "c":
            there = address != 0
        reaches = [(turns - 1) * self.fields[f"{operand}_{stride}"] * size for turns, stride in loops]
        reaches.append(self.fields[f"{operand}_jump"] * (self.times - 1))
        begin = address + sum(np.minimum(reach, 0) for reach in reaches)
        end = address + sum(np.maximum(reach, 0) for reach in reaches) + np.asarray(run) * size
        return Access(begin[there], end[there], writes)


def digest(tensors: list[Tensor]) -> tuple[int, int, bool]:
    """128 bits of the values of tensors, in their order, and whether all that are float32 or float64 are finite.

    Different values give different bits, but for one case in some 2^64.

    Example:
        >>> a, b = torch.zeros(5), torch.tensor([0.0, 0, 0, 0, 1e-30])
        >>> digest([a]) == digest([a.clone()]), digest([a]) == digest([b]), digest([a / a])[2]
        (True, False, False)
    """
    contiguous = [tensor.detach().contiguous() for tensor in tensors]
    table = [(t.data_ptr(), t.numel() * t.element_size(), *EXPONENTS.get(t.dtype, (0, 0))) for t in contiguous]
    first, second, infinite = _digest(np.array(table, np.uint64).reshape(-1, 4))
    return int(first), int(second), not infinite


@jit
def _digest(table: Any) -> tuple[Any, Any, bool]:
    """Four chains of words side by side; each step is a bijection of the chain's state."""
    first, second, infinite = np.uint64(len(table)), ZERO, False
    for row in range(len(table)):
        address, size, low, high = np.int64(table[row, 0]), np.int64(table[row, 1]), table[row, 2], table[row, 3]
        a, b, c, d = first ^ PRIME_1, second ^ PRIME_2, first ^ PRIME_3, second + np.uint64(size)
        words, found = size // 32, ZERO
        for k in range(words):
            at = address + 32 * k
            p, q, r, s = peek(at, ZERO), peek(at + 8, ZERO), peek(at + 16, ZERO), peek(at + 24, ZERO)
            if low != ZERO:
                found |= np.uint64((p & low == low) | (p & high == high) | (q & low == low) | (q & high == high))
                found |= np.uint64((r & low == low) | (r & high == high) | (s & low == low) | (s & high == high))
            a, b, c, d = (a ^ p) * PRIME_1, (b ^ q) * PRIME_1, (c ^ r) * PRIME_1, (d ^ s) * PRIME_1
            a, b, c, d = a ^ (a >> SHIFT), b ^ (b >> SHIFT), c ^ (c >> SHIFT), d ^ (d >> SHIFT)
        # The remainder is less than four words, and the last of them may be incomplete.
        for k in range(32 * words, size, 8):
            word = ZERO
            for byte in range(min(8, size - k)):
                word |= np.uint64(peek(address + k + byte, np.uint8(0))) << np.uint64(8 * byte)
            if low != ZERO:
                found |= np.uint64((word & low == low) | (word & high == high))
            a = (a ^ word) * PRIME_1
            a = a ^ (a >> SHIFT)
        first = (a * PRIME_2 ^ b) * PRIME_3 ^ c
        second = (c * PRIME_2 ^ d) * PRIME_3 ^ a
        first, second, infinite = first ^ (first >> SHIFT), second ^ (second >> SHIFT), infinite or found != ZERO
    return first, second, infinite
