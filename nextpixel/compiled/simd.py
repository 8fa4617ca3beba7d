"""SIMD code generated through numba's intrinsics: register tiles of a matrix product, and element-wise loops.

numba compiles scalar loops well, but a product must keep its sums in registers, and the loops of a scan are too short, and too
often in place, for LLVM to vectorise. So both are emitted as vector code, as wide as the processor's registers. Memory is given
as addresses, strides as numbers of elements.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nextpixel.compiled import vector_math

I64 = ir.IntType(64)


@lru_cache
def register_bytes() -> int:
    """Bytes of a vector register of this processor."""
    features = llvmlite.binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


@lru_cache
def tile(rows: int, panels: int, registers: int) -> Callable[..., None]:
    """A product whose sums stay in registers: `rows` of a by `panels` of `registers` registers each.

    The function made takes (out, out_stride, add, add_stride, a, a_stride, w, jump, k, like) and writes a @ w + add, where
    add is 0 for none. A panel of w holds `registers` registers for each of the k rows, one after the other, and the next panel
    follows `jump` elements later; the columns of out lie side by side. `like` gives the type.
    """

    @intrinsic
    def product(
        context: Any, out: Any, out_row: Any, add: Any, add_row: Any, a: Any, a_row: Any, w: Any, jump: Any, k: Any, like: Any
    ) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            _Tile(builder, context.get_value_type(like), rows, panels, registers).emit(*values[:-1])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, like), generate

    return product


@lru_cache
def tiles(heights: tuple[int, ...], widths: tuple[int, ...]) -> Callable[..., None]:
    """Tiles of one panel, of any of these numbers of rows and registers: the function made takes both numbers, and then
    (out, out_stride, add, add_stride, a, a_stride, w, k, like), as that of `tile`."""

    @intrinsic
    def product(
        context: Any,
        rows: Any,
        registers: Any,
        out: Any,
        out_row: Any,
        add: Any,
        add_row: Any,
        a: Any,
        a_row: Any,
        w: Any,
        k: Any,
        like: Any,
    ) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            rows, registers, *operands, k, _ = values
            for height, width in itertools.product(heights, widths):
                same = (builder.icmp_signed("==", value, I64(n)) for value, n in ((rows, height), (registers, width)))
                with builder.if_then(builder.and_(*same)):
                    _Tile(builder, context.get_value_type(like), height, 1, width).emit(*operands, I64(0), k)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10, like), generate

    return product


class _Tile:
    def __init__(self, builder: ir.IRBuilder, element: ir.Type, rows: int, panels: int, registers: int) -> None:
        self.builder, self.element, self.rows, self.registers = builder, element, rows, registers
        self.vector = ir.VectorType(element, register_bytes() // _size(element))
        self.columns = [(panel, v) for panel in range(panels) for v in range(registers)]

    def emit(
        self, out: Any, out_stride: Any, add: Any, add_stride: Any, a: Any, a_stride: Any, w: Any, jump: Any, k: Any
    ) -> None:
        builder, zero = self.builder, vector_math.constant(self.vector, 0.0)
        sums = [zero] * (self.rows * len(self.columns))
        with builder.if_else(builder.icmp_signed("!=", add, I64(0))) as (then, otherwise):
            with then:
                found = [builder.load(place, align=_size(self.element)) for place in self._places(add, add_stride)]
                loaded = builder.block
            with otherwise:
                empty = builder.block
        sums = [_join(builder, (value, loaded), (zero, empty)) for value in found]
        step = I64(self.vector.count * self.registers)
        rows = [builder.add(a, self._bytes(builder.mul(a_stride, I64(m)))) for m in range(self.rows)]
        with _loop(builder, k, sums) as (index, now, following):
            weights = []
            for panel, v in self.columns:
                column = builder.add(builder.mul(jump, I64(panel)), I64(v * self.vector.count))
                place = builder.add(w, self._bytes(builder.add(builder.mul(index, step), column)))
                weights.append(builder.load(builder.inttoptr(place, self.vector.as_pointer()), align=_size(self.element)))
            for m, row in enumerate(rows):
                place = builder.inttoptr(builder.add(row, self._bytes(index)), self.element.as_pointer())
                factor = vector_math.splat(builder, builder.load(place), self.vector)
                for n, weight in enumerate(weights):
                    at = m * len(weights) + n
                    following[at] = vector_math.fma(builder, factor, weight, now[at])
        for value, place in zip(following, self._places(out, out_stride), strict=True):
            builder.store(value, place, align=_size(self.element))

    def _places(self, base: Any, stride: Any) -> list[Any]:
        """Where the tile's registers lie in memory whose rows are `stride` apart."""
        builder, width = self.builder, self.vector.count
        found = []
        for m in range(self.rows):
            for panel, v in self.columns:
                offset = builder.add(builder.mul(stride, I64(m)), I64((panel * self.registers + v) * width))
                found.append(builder.inttoptr(builder.add(base, self._bytes(offset)), self.vector.as_pointer()))
        return found

    def _bytes(self, elements: Any) -> Any:
        return self.builder.mul(elements, I64(_size(self.element)))


@lru_cache
def elementwise(name: str) -> Callable[..., None]:
    """A loop over `n` elements: the function made takes (out, a, b, c, n, like) and writes `vector_math.FUNCTIONS[name]` of the
    inputs that it has; the others are not read. `out` may be one of the inputs."""

    @intrinsic
    def loop(context: Any, out: Any, a: Any, b: Any, c: Any, n: Any, like: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            _emit_elementwise(builder, context.get_value_type(like), name, *values[:-1])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, like), generate

    return loop


@lru_cache
def any_elementwise(names: tuple[str, ...]) -> Callable[..., None]:
    """The same for any of several functions: the function made takes the index of the name before the rest."""

    @intrinsic
    def loop(context: Any, which: Any, out: Any, a: Any, b: Any, c: Any, n: Any, like: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            for code, name in enumerate(names):
                with builder.if_then(builder.icmp_signed("==", values[0], I64(code))):
                    _emit_elementwise(builder, context.get_value_type(like), name, *values[1:-1])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6, like), generate

    return loop


def _emit_elementwise(builder: ir.IRBuilder, element: ir.Type, name: str, *operands: Any) -> None:
    (function, inputs), (*addresses, n) = vector_math.FUNCTIONS[name], operands

    def compute(kind: Any, first: Any) -> tuple[Any, Any]:
        offset = builder.mul(first, I64(_size(element)))
        places = [builder.inttoptr(builder.add(at, offset), kind.as_pointer()) for at in addresses[: 1 + inputs]]
        return function(builder, *(builder.load(place, align=_size(element)) for place in places[1:])), places[0]

    def vectors(width: int) -> None:
        # The remainder is computed as the last whole vector, which overlaps the one before it. Its inputs are read first, because
        # the results of the others may overwrite them.
        kind = ir.VectorType(element, width)
        last, place = compute(kind, builder.sub(n, I64(width)))
        with _loop(builder, builder.sdiv(n, I64(width)), []) as (index, _, _):
            builder.store(*compute(kind, builder.mul(index, I64(width))), align=_size(element))
        builder.store(last, place, align=_size(element))

    wide = register_bytes() // _size(element)
    with builder.if_else(builder.icmp_signed(">=", n, I64(wide))) as (then, otherwise):
        with then:
            vectors(wide)
        with otherwise, builder.if_else(builder.icmp_signed(">=", n, I64(4))) as (then, otherwise):
            with then:
                vectors(4)
            with otherwise, _loop(builder, n, []) as (index, _, _):
                builder.store(*compute(element, index), align=_size(element))


@intrinsic
def size_of(context: Any, like: Any) -> Any:
    """Bytes of a number of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return I64(_size(context.get_value_type(like)))

    return types.int64(like), generate


@intrinsic
def peek(context: Any, address: Any, like: Any) -> Any:
    """The number of the type of `like` at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(like)
        return builder.load(builder.inttoptr(values[0], kind.as_pointer()))

    return like(types.int64, like), generate


@intrinsic
def poke(context: Any, address: Any, value: Any, like: Any) -> Any:
    """Write a number to an address, as the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = context.cast(builder, values[1], value, like)
        builder.store(number, builder.inttoptr(values[0], number.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value, like), generate


def _size(element: ir.Type) -> int:
    return 4 if isinstance(element, ir.FloatType) else 8


def _join(builder: ir.IRBuilder, *cases: tuple[Any, Any]) -> Any:
    phi = builder.phi(cases[0][0].type)
    for value, block in cases:
        phi.add_incoming(value, block)
    return phi


@contextmanager
def _loop(builder: ir.IRBuilder, times: Any, carried: list[Any]) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """A loop from 0 to `times`: yields the index, the carried values, and the list of their next values. After the loop the list
    holds the last ones."""
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(I64(0), before)
    now = [builder.phi(value.type) for value in carried]
    for phi, value in zip(now, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, times), body, after)
    builder.position_at_end(body)
    following = list(now)
    yield index, now, following
    for phi, value in zip((index, *now), (builder.add(index, I64(1)), *following), strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    following[:] = now


REGISTER = register_bytes()


# Rows of a tile: with up to three registers of columns each, all its sums stay in registers.
ROWS = 8 if REGISTER == 64 else 4


def panel_registers(registers: int) -> list[int]:
    """The panels of a matrix so many registers wide: pairs, and three in the last one if the number is odd.

    Example:
        >>> panel_registers(1), panel_registers(4), panel_registers(5)
        ([1], [2, 2], [2, 3])
    """
    pairs = registers // 2 - (registers % 2 if registers > 1 else 0)
    return [2] * pairs + [registers - 2 * pairs] * (registers > 2 * pairs)
