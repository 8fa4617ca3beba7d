"""The interpreter of a program: one compiled function that runs line after line of a table (`nextpixel.compiled.instructions`).

A program on a processor: the blocks of lines that the interpreter runs.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import njit

from nextpixel.compiled.draw_kernels import draw_binary, draw_categorical, draw_mixture
from nextpixel.compiled.instructions import ELEMENTWISE, OPERATIONS, OTHERS, Block
from nextpixel.compiled.jit import jit
from nextpixel.compiled.memory import Memory, Relocation
from nextpixel.compiled.simd import REGISTER, ROWS, any_elementwise, elementwise, peek, poke, size_of, tile, tiles
from nextpixel.errors import InputError

CONCAT_ELU, PRODUCT, INTENSITY, EMBEDDING, BINARY, CATEGORICAL, MIXTURE = (OPERATIONS[name] for name in OTHERS)

# So many rows of a panel stay in the nearest cache while the rows of the other factor pass by.
DEPTH = 384

_tile, _tile_wide = tiles(tuple(dict.fromkeys((ROWS, 4, 2, 1))), (1, 2, 3)), tile(1, 4, 2)
_elementwise = any_elementwise(ELEMENTWISE)
_copy, _neg, _elu, _add = (elementwise(name) for name in ("copy", "neg", "elu", "add"))


@jit
def run(table: Any, begin: int, end: int, first: int, stop: int, scratch: int, like: Any) -> int:
    """Run the lines from `begin` to `end` of a table (lines, `COLUMNS`) of int64, in their repetitions from `first` to `stop`.

    Args:
        table: a block of a program.
        begin, end, first, stop: what is run of it.
        scratch: address of memory that belongs to this call, for a tile, and for the numbers of one law.
        like: a number of the type that the program computes with.

    Returns:
        How many symbols were drawn from numbers that are none (NaN).
    """
    size, nothing = size_of(like), 0
    for time in range(first, stop):
        for line in range(begin, end):
            operation, n0, n1, n2 = table[line, 0], table[line, 1], table[line, 2], table[line, 3]
            out, a = table[line, 5] + time * table[line, 17], table[line, 8] + time * table[line, 18]
            b, c = table[line, 11] + time * table[line, 19], table[line, 14] + time * table[line, 20]
            if operation == PRODUCT:
                for i in range(n0):
                    _product(
                        out + i * table[line, 6] * size,
                        table[line, 7],
                        c + i * table[line, 15] * size if c else 0,
                        table[line, 16],
                        a + i * table[line, 9] * size,
                        table[line, 10],
                        b,
                        n1,
                        n2,
                        table[line, 4],
                        scratch,
                        like,
                    )
            elif operation == BINARY:
                nothing += draw_binary(table[line], out, a, b, c, like)
            elif operation == CATEGORICAL:
                nothing += draw_categorical(table[line], out, a, b, c, scratch, like)
            elif operation == MIXTURE:
                nothing += draw_mixture(table[line], out, a, b, c, scratch, like)
            else:
                for i in range(n0):
                    for j in range(n1):
                        to = out + (i * table[line, 6] + j * table[line, 7]) * size
                        x = a + (i * table[line, 9] + j * table[line, 10]) * size
                        y = b + (i * table[line, 12] + j * table[line, 13]) * size
                        z = c + (i * table[line, 15] + j * table[line, 16]) * size
                        if operation < len(ELEMENTWISE):
                            _elementwise(operation, to, x, y, z, n2, like)
                        elif operation == CONCAT_ELU:  # two results; x may be the first of them
                            _neg(y, x, 0, 0, n2, like)
                            _elu(y, y, 0, 0, n2, like)
                            _elu(to, x, 0, 0, n2, like)
                        else:
                            # Symbols are int64, whatever the type: their strides count eight bytes.
                            symbol = peek(a + (i * table[line, 9] + j * table[line, 10]) * 8, np.int64(0))
                            if operation == INTENSITY:
                                poke(to, symbol * peek(b, like) - 1.0, like)
                            else:  # the vector of a symbol, and of no symbol that is none
                                symbol = min(max(symbol, 0), table[line, 4] - 1)
                                _copy(to, b + symbol * n2 * size, 0, 0, n2, like)
    return nothing


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
            while pair + 4 <= pairs and (pair + 4) * 2 * register <= n:  # all of its columns are there
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
            by_scratch = at + wide * register > n  # its last columns are not there: by way of the scratch memory
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
    """Lines, ready to run.

    Args:
        blocks: the lines.
        memory: what they point to.
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
        """Run the lines of one column."""
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
        """Of its lines."""
        return sum(block.table.nbytes for block in self.blocks)
