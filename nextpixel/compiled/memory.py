"""The memory that programs of one scan work on: kept alive, told apart from what is only read, copied for other cores."""

import copy

import numpy as np
import torch
from torch import Tensor

from nextpixel.compiled.lines import ADDRESSES
from nextpixel.recording import NotRecordableError


class Memory:
    """Everything that programs of one scan point to; it keeps their tensors alive, and knows which of them are written.

    Args:
        dtype: of the numbers.
        device: where.
        scratch: bytes that an operation needs for itself.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, scratch: int) -> None:
        self.dtype, self.device = dtype, device
        self.written: dict[int, torch.UntypedStorage] = {}
        self._changed: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._packed: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._weights: dict[int, int] = {}
        self._constants: dict[tuple[object, ...], Tensor] = {}
        self.scratch = torch.zeros(scratch, dtype=torch.uint8, device=device)

    def read(self, tensor: Tensor) -> int:
        """The address of a tensor, which stays where it is."""
        self._kept.append(tensor)
        return tensor.data_ptr()

    def write(self, tensor: Tensor) -> int:
        """The same of one that the program changes."""
        self._changed.append(tensor)
        return tensor.data_ptr()

    def close(self) -> None:
        """After everything was recorded: find what is written.

        Raises:
            NotRecordableError: a matrix of a product is written too.
        """
        for tensor in {id(tensor): tensor for tensor in self._changed}.values():
            storage = tensor.untyped_storage()
            self.written[storage.data_ptr()] = storage
        if any(tensor.untyped_storage().data_ptr() in self.written for tensor, _ in self._packed.values()):
            raise NotRecordableError("a product with a matrix that the scan itself writes")

    def new(self, *shape: int) -> Tensor:
        """Zeros of its own."""
        tensor = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self._kept.append(tensor)
        return tensor

    def constant(self, value: float, n: int) -> Tensor:
        """A number n times."""
        return self._constant(self.dtype, (value,) * n)

    def settings(self, *values: float) -> int:
        """The address of some numbers in float64."""
        return self._constant(torch.float64, values).data_ptr()

    def _constant(self, dtype: torch.dtype, values: tuple[float, ...]) -> Tensor:
        if (dtype, values) not in self._constants:
            self._constants[dtype, values] = torch.tensor(values, dtype=dtype, device=self.device)
        return self._constants[dtype, values]

    def packed(self, weight: Tensor) -> int:
        """The address of a matrix (k, n) in the order that products read."""
        if id(weight) in self._weights:
            return self._weights[id(weight)]
        key = (weight.data_ptr(), *weight.shape, *weight.stride())
        if key not in self._packed:
            self._packed[key] = weight, self.pack(weight)  # the matrix too: nothing else comes to lie at its address
        address = self._packed[key][1].data_ptr()
        self._kept.append(weight)  # nor any other object gets its id
        self._weights[id(weight)] = address
        return address

    def pack(self, weight: Tensor) -> Tensor:
        """A matrix in that order: here row by row."""
        return weight.contiguous()

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """The written memory and its contents now: `restore` brings them back for the next images."""
        return [(view, view.clone()) for view in map(_bytes, self.written.values())]

    def moved(self) -> tuple["Memory", "Relocation"]:
        """The same with written memory of its own, and how to move programs there."""
        other = copy.copy(self)
        old = list(self.written.values())
        new = [_bytes(storage).clone().untyped_storage() for storage in old]
        other.written = {storage.data_ptr(): storage for storage in new}
        other.scratch = self.scratch.clone()
        return other, Relocation(old, new)


def restore(snapshot: list[tuple[Tensor, Tensor]]) -> None:
    """Bring back what `Memory.snapshot` has seen."""
    for memory, contents in snapshot:
        memory.copy_(contents)


class Relocation:
    """From addresses in some storages to the same places of others."""

    def __init__(self, old: list[torch.UntypedStorage], new: list[torch.UntypedStorage]) -> None:
        pairs = sorted(zip(old, new, strict=True), key=lambda pair: pair[0].data_ptr())
        self.begins = np.array([a.data_ptr() for a, _ in pairs], np.int64)
        self.ends = np.array([a.data_ptr() + a.nbytes() for a, _ in pairs], np.int64)
        self.jumps = np.array([b.data_ptr() - a.data_ptr() for a, b in pairs], np.int64)
        self.storages = {a.data_ptr(): b for a, b in pairs}

    def table(self, table: np.ndarray) -> np.ndarray:
        """A program's table, moved."""
        moved = table.copy()
        addresses = table[:, ADDRESSES]
        index = np.maximum(np.searchsorted(self.begins, addresses, side="right") - 1, 0)
        inside = (addresses >= self.begins[index]) & (addresses < self.ends[index])
        moved[:, ADDRESSES] += np.where(inside, self.jumps[index], 0)
        return moved

    def tensor(self, tensor: Tensor) -> Tensor:
        """A view of old memory, as one of the new."""
        storage = self.storages[tensor.untyped_storage().data_ptr()]
        view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return view.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
