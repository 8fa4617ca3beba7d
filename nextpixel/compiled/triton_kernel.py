"""The interpreter of a program on a GPU: one Triton kernel that runs a row's lines, so that a scan is a launch per row.

A single program of the grid runs all lines, one after the other, with a barrier between them: what one line writes the next one
reads. That suits one image, or very few, where even a graph's launches cost more than the arithmetic.
"""

import triton
import triton.language as tl

from nextpixel.compiled.lines import COLUMNS, OPERATIONS

WIDTH = tl.constexpr(len(COLUMNS))
(
    COPY,
    NEG,
    RELU,
    ELU,
    SIGMOID,
    TANH,
    ADD,
    MUL,
    GATE,
    ADDCMUL,
    CONCAT_ELU,
    PRODUCT,
    INTENSITY,
    EMBEDDING,
    BINARY,
    CATEGORICAL,
    _,
) = (tl.constexpr(code) for code in OPERATIONS.values())


@triton.jit
def run_lines(
    table, lines, NUMBER: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, LEVELS: tl.constexpr
):
    """Run the lines of a table (lines, columns) of int64.

    Args:
        table: the program.
        lines: how many.
        NUMBER, SIZE: the type that the program computes with, and its bytes.
        BLOCK: columns at once.
        DEPTH: rows of a matrix at once.
        LEVELS: a power of 2, at least the number of symbols.
    """
    for line in range(lines):
        at = table + line * WIDTH
        operation, n0, n1, n2, k = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)
        out, out_0, out_1 = tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
        a, a_0, a_1 = tl.load(at + 8), tl.load(at + 9), tl.load(at + 10)
        b, b_0, b_1 = tl.load(at + 11), tl.load(at + 12), tl.load(at + 13)
        c, c_0, c_1 = tl.load(at + 14), tl.load(at + 15), tl.load(at + 16)
        if operation == BINARY or operation == CATEGORICAL:
            for image in range(n0):
                _draw(operation, image, n0, n1, out, out_0, a, a_0, b, b_0, b_1, c, c_0, NUMBER, SIZE, LEVELS)
        else:
            for row in range(n0 * n1):
                i, j = row // n1, row % n1
                to = out + (i * out_0 + j * out_1) * SIZE
                x, y, z = a + (i * a_0 + j * a_1) * SIZE, b + (i * b_0 + j * b_1) * SIZE, c + (i * c_0 + j * c_1) * SIZE
                if operation == PRODUCT:
                    _product(to, x, b, tl.where(c == 0, c, z), n2, k, NUMBER, BLOCK, DEPTH)
                elif operation == INTENSITY:  # symbols are int64: their strides count eight bytes
                    symbol = tl.load((a + (i * a_0 + j * a_1) * 8).to(tl.pointer_type(tl.int64)))
                    step = tl.load(b.to(tl.pointer_type(NUMBER)))
                    tl.store(to.to(tl.pointer_type(NUMBER)), (symbol.to(tl.float64) * step - 1.0).to(NUMBER))
                elif operation == EMBEDDING:
                    symbol = tl.load((a + (i * a_0 + j * a_1) * 8).to(tl.pointer_type(tl.int64)))
                    _elementwise(COPY, to, b + (symbol + j * k) * n2 * SIZE, y, z, n2, NUMBER, BLOCK)
                else:
                    _elementwise(operation, to, x, y, z, n2, NUMBER, BLOCK)
        tl.debug_barrier()


@triton.jit
def _elementwise(operation, to, a, b, c, n, NUMBER: tl.constexpr, BLOCK: tl.constexpr):
    out, x_at = to.to(tl.pointer_type(NUMBER)), a.to(tl.pointer_type(NUMBER))
    y_at, z_at = b.to(tl.pointer_type(NUMBER)), c.to(tl.pointer_type(NUMBER))
    # How much there is of a second and a third input.
    third = tl.where(operation == ADDCMUL, n, 0)
    second = third + tl.where(operation == ADD, n, 0) + tl.where(operation == MUL, n, 0) + tl.where(operation == GATE, n, 0)
    for begin in range(0, n, BLOCK):
        where = begin + tl.arange(0, BLOCK)
        inside = where < n
        x = tl.load(x_at + where, mask=inside, other=0.0)
        y = tl.load(y_at + where, mask=where < second, other=0.0)
        z = tl.load(z_at + where, mask=where < third, other=0.0)
        found = x
        if operation == NEG:
            found = -x
        elif operation == RELU:
            found = tl.maximum(x, 0.0)
        elif operation == ELU or operation == CONCAT_ELU:
            found = tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)
        elif operation == SIGMOID:
            found = 1.0 / (1.0 + tl.exp(-x))
        elif operation == TANH:
            found = 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0
        elif operation == ADD:
            found = x + y
        elif operation == MUL:
            found = x * y
        elif operation == GATE:
            found = (2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0) / (1.0 + tl.exp(-y))
        elif operation == ADDCMUL:
            found = x + y * z
        tl.store(out + where, found, mask=inside)
        if operation == CONCAT_ELU:  # its second result stands where others have a second input
            tl.store(y_at + where, tl.where(x < 0, -x, tl.exp(tl.minimum(-x, 0.0)) - 1.0), mask=inside)


@triton.jit
def _product(to, a, w, add, n, k, NUMBER: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    out, x_at = to.to(tl.pointer_type(NUMBER)), a.to(tl.pointer_type(NUMBER))
    w_at, add_at = w.to(tl.pointer_type(NUMBER)), add.to(tl.pointer_type(NUMBER))
    added = tl.where(add == 0, 0, n)
    for begin in range(0, n, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        total = tl.load(add_at + columns, mask=columns < added, other=0.0)
        for deep in range(0, k, DEPTH):
            rows = deep + tl.arange(0, DEPTH)
            x = tl.load(x_at + rows, mask=rows < k, other=0.0)
            inside = (rows < k)[:, None] & (columns < n)[None, :]
            total += tl.sum(x[:, None] * tl.load(w_at + rows[:, None] * n + columns[None, :], mask=inside, other=0.0), axis=0)
        tl.store(out + columns, total, mask=columns < n)


@triton.jit
def _draw(
    operation, image, images, levels, out, out_0, params, a_0, noise, b_0, settings, known, c_0,
    NUMBER: tl.constexpr, SIZE: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """As `draw_kernels` draws; the settings are temperature and guidance."""
    keeps = False
    if known != 0:
        keeps = tl.load((known + image * c_0).to(tl.pointer_type(tl.uint8))) != 0
    temperature, guidance = (
        tl.load(settings.to(tl.pointer_type(tl.float64))),
        tl.load((settings + 8).to(tl.pointer_type(tl.float64))),
    )
    chance = tl.load((noise + image * b_0 * 8).to(tl.pointer_type(tl.float64)))
    level = tl.arange(0, LEVELS)
    inside = level < tl.where(operation == BINARY, 1, levels)
    logits = tl.load((params + image * a_0 * SIZE).to(tl.pointer_type(NUMBER)) + level, mask=inside, other=0.0).to(tl.float64)
    if guidance != 1.0:
        without = (params + (image + images) * a_0 * SIZE).to(tl.pointer_type(NUMBER))
        logits = guidance * logits + (1.0 - guidance) * tl.load(without + level, mask=inside, other=0.0).to(tl.float64)
    logits = logits / temperature
    if operation == BINARY:
        zero = 1.0 / (1.0 + tl.exp(tl.sum(logits, axis=0)))  # of one number
        symbol = (zero <= chance).to(tl.int64)
    else:
        highest = tl.max(tl.where(inside, logits, float("-inf")), axis=0)
        cumulated = tl.cumsum(tl.where(inside, tl.exp(logits - highest), 0.0), axis=0)
        threshold = tl.max(cumulated, axis=0) * chance
        symbol = tl.minimum(tl.sum(((cumulated <= threshold) & inside).to(tl.int64), axis=0), levels - 1)
    if not keeps:
        tl.store((out + image * out_0 * 8).to(tl.pointer_type(tl.int64)), symbol)
        if guidance != 1.0:
            tl.store((out + (image + images) * out_0 * 8).to(tl.pointer_type(tl.int64)), symbol)
