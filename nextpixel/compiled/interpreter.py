"""The interpreter: one compiled function that executes the instructions of a table; a program is the blocks that it executes."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import njit

from nextpixel.compiled.draw_kernels import draw_binary, draw_categorical, draw_mixture
from nextpixel.compiled.instructions import ELEMENTWISE, OPCODES, OTHERS, Block
from nextpixel.compiled.jit import jit
from nextpixel.compiled.memory import Memory, Relocation
from nextpixel.compiled.simd import REGISTER, ROWS, any_elementwise, elementwise, peek, poke, size_of, tile, tiles
from nextpixel.errors import InputError

CONCAT_ELU, PRODUCT, INTENSITY, EMBEDDING, BINARY, CATEGORICAL, MIXTURE = (OPCODES[name] for name in OTHERS)

# Rows of a panel that stay in the first-level cache while all rows of the other factor are multiplied with it.
DEPTH = 384

_tile, _tile_wide = tiles(tuple(dict.fromkeys((ROWS, 4, 2, 1))), (1, 2, 3)), tile(1, 4, 2)
_elementwise = any_elementwise(ELEMENTWISE)
_copy, _neg, _elu, _add = (elementwise(name) for name in ("copy", "neg", "elu", "add"))


@jit
def run(table: Any, begin: int, end: int, first: int, stop: int, scratch: int, like: Any) -> int:
    """Execute instructions `begin` to `end` of a table (instructions, `FIELDS`) of int64, in repetitions `first` to `stop`.

    Args:
        table: a block of a program.
        begin, end, first, stop: the instructions and repetitions to execute.
        scratch: address of memory that belongs to this call, for a tile, or the numbers of one draw.
        like: a number of the type that the program computes with.

    Returns:
        How many symbols had no distribution: their params are NaN.
    """
    size, failed = size_of(like), 0
    for time in range(first, stop):
        for at in range(begin, end):
            opcode, n0, n1, n2 = table[at, 0], table[at, 1], table[at, 2], table[at, 3]
            out, a = table[at, 5] + time * table[at, 17], table[at, 8] + time * table[at, 18]
            b, c = table[at, 11] + time * table[at, 19], table[at, 14] + time * table[at, 20]
            if opcode == PRODUCT:
                for i in range(n0):
                    _product(
                        out + i * table[at, 6] * size,
                        table[at, 7],
                        c + i * table[at, 15] * size if c else 0,
                        table[at, 16],
                        a + i * table[at, 9] * size,
                        table[at, 10],
                        b,
                        n1,
                        n2,
                        table[at, 4],
                        scratch,
                        like,
                    )
            elif opcode == BINARY:
                failed += draw_binary(table[at], out, a, b, c, like)
            elif opcode == CATEGORICAL:
                failed += draw_categorical(table[at], out, a, b, c, scratch, like)
            elif opcode == MIXTURE:
                failed += draw_mixture(table[at], out, a, b, c, scratch, like)
            else:
                for i in range(n0):
                    for j in range(n1):
                        to = out + (i * table[at, 6] + j * table[at, 7]) * size
                        x = a + (i * table[at, 9] + j * table[at, 10]) * size
                        y = b + (i * table[at, 12] + j * table[at, 13]) * size
                        z = c + (i * table[at, 15] + j * table[at, 16]) * size
                        if opcode < len(ELEMENTWISE):
                            _elementwise(opcode, to, x, y, z, n2, like)
                        elif opcode == CONCAT_ELU:  # two results; x may be the first of them
                            _neg(y, x, 0, 0, n2, like)
                            _elu(y, y, 0, 0, n2, like)
                            _elu(to, x, 0, 0, n2, like)
                        else:
                            # Symbols are int64 in every program: their strides count eight bytes.
                            symbol = peek(a + (i * table[at, 9] + j * table[at, 10]) * 8, np.int64(0))
                            if opcode == INTENSITY:
                                poke(to, symbol * peek(b, like) - 1.0, like)
                            else:  # an embedding; the clamp keeps the read inside the table
                                symbol = min(max(symbol, 0), table[at, 4] - 1)
                                _copy(to, b + symbol * n2 * size, 0, 0, n2, like)
    return failed


@njit(nogil=True)
def _product(
    out: int, out_row: int, add: int, add_row: int, a: int, a_row: int, w: int, m: int, n: int, k: int, scratch: int, like: Any
) -> None:
    """out (m, n) = a (m, k) @ w + add, with w in the panels of `panel_registers`, the last one filled up with zeros."""
    size = size_of(like)
    register = REGISTER // size
    registers = (n + register - 1) // register
    pairs = registers // 2 - (registers % 2 if registers > 1 else 0)
    for begin in range(0, k, DEPTH):
        depth = min(DEPTH, k - begin)
        if begin:
            add, add_row = out, out_row
        x = a + begin * size
        pair = 0
        if m == 1:
            while pair + 4 <= pairs and (pair + 4) * 2 * register <= n:  # the result has all columns of the tile
                at = pair * 2 * register
                weights = w + (at * k + begin * 2 * register) * size
                _tile_wide(out + at * size, 0, add + at * size if add else 0, 0, x, 0, weights, 2 * register * k, depth, like)
                pair += 4
        while pair <= pairs:
            at = pair * 2 * register
            wide = 2 if pair < pairs else registers - 2 * pairs
            if wide == 0:
                break
            weights = w + (at * k + begin * wide * register) * size
            target, start = out + at * size, add + at * size if add else 0
            by_scratch = at + wide * register > n  # the result ends inside the tile: compute it in scratch memory
            row = 0
            while row < m:
                rows = ROWS if row + ROWS <= m else 4 if row + 4 <= m else 2 if row + 2 <= m else 1
                source = x + row * a_row * size
                if by_scratch:
                    _tile(rows, wide, scratch, wide * register, 0, 0, source, a_row, weights, depth, like)
                    for r in range(rows):
                        place, found = target + (row + r) * out_row * size, scratch + r * wide * REGISTER
                        if add:
                            _add(place, found, start + (row + r) * add_row * size, 0, n - at, like)
                        else:
                            _copy(place, found, 0, 0, n - at, like)
                else:
                    first = start + row * add_row * size if add else 0
                    _tile(rows, wide, target + row * out_row * size, out_row, first, add_row, source, a_row, weights, depth, like)
                row += rows
            pair += 1


class Program:
    """Blocks of instructions, ready to run.

    Args:
        blocks: in order.
        memory: all that they address.
    """

    def __init__(self, blocks: list[Block], memory: Memory) -> None:
        self.blocks, self.memory = blocks, memory
        self._columns = [(block.columns.stop, block) for block in blocks]
        self._scratch = memory.scratch.data_ptr()
        self._like = np.float32(0) if memory.dtype == torch.float32 else np.float64(0)

    def __call__(self) -> None:
        """Run it, without Python and without its lock.

        Raises:
            InputError: a symbol has no probabilities.
        """
        for block in self.blocks:
            if run(block.table, 0, len(block.table), 0, block.times, self._scratch, self._like):
                raise InputError("the model gives no probabilities: it computes numbers that are infinite or none (NaN)")

    def column(self, j: int) -> None:
        """Run the instructions of one column."""
        for stop, block in self._columns:
            if j < stop:
                begin, end, time = block.place(j)
                run(block.table, begin, end, time, time + 1, self._scratch, self._like)
                return
        raise IndexError(f"column {j} of {stop}")

    def moved(self, memory: Memory, relocation: Relocation) -> "Program":
        """The same on other memory."""
        return Program([replace(block, table=relocation.table(block.table)) for block in self.blocks], memory)

    @property
    def nbytes(self) -> int:
        """Of its instructions."""
        return sum(block.table.nbytes for block in self.blocks)
