"""Element-wise functions of vectors as LLVM instructions.

    exp x = 2^n exp r,   n = round(x / log 2),   r = x - n log 2 in two parts, |r| <= log 2 / 2,   exp r by its Taylor series

The series ends where the type's digits do (the remainder is below 1e-8 and 5e-18 of the value), so that a scan differs from
`forward` by rounding only: in float64 by 1e-15. Every function takes a builder and values that are vectors or numbers.
"""

import math
from typing import Any

from llvmlite import ir
from numba.core.cgutils import get_or_insert_function

INT = {4: ir.IntType(32), 8: ir.IntType(64)}
# Of each type: the terms of the series, log 2 as a sum whose first part has few digits, the exponent's bias and place, and
# the range beyond which exp leaves the normal numbers.
FLOAT = (7, 0.693359375, -2.12194440054690583e-4, 127, 23, 87.0)
DOUBLE = (13, 0.693147180369123816490, 1.90821492927058770002e-10, 1023, 52, 708.0)


def constant(kind: Any, value: float) -> Any:
    """A number of this type, in every place of a vector."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: ir.IRBuilder, value: Any, kind: Any) -> Any:
    """A number in every place of a vector."""
    index, undefined = ir.IntType(32), ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, index(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, kind.count), [0] * kind.count))


def fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""
    return _call(builder, "llvm.fma", a, b, c)


def most(builder: ir.IRBuilder, x: Any, bound: float) -> Any:
    """min(x, bound), and NaN where x is: LLVM's own minnum would give the bound."""
    return builder.select(builder.fcmp_ordered("<", constant(x.type, bound), x), constant(x.type, bound), x)


def least(builder: ir.IRBuilder, x: Any, bound: float) -> Any:
    """max(x, bound), and NaN where x is."""
    return builder.select(builder.fcmp_ordered("<", x, constant(x.type, bound)), constant(x.type, bound), x)


def exp(builder: ir.IRBuilder, x: Any) -> Any:
    """exp x; beyond the normal numbers the smallest or largest one, and NaN where x is."""
    kind = x.type
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    terms, high, low, bias, place, limit = FLOAT if isinstance(element, ir.FloatType) else DOUBLE
    x = least(builder, most(builder, x, limit), -limit)
    n = _call(builder, "llvm.rint", builder.fmul(x, constant(kind, 1 / math.log(2))))
    r = fma(builder, n, constant(kind, -high), x)
    r = fma(builder, n, constant(kind, -low), r)
    series = constant(kind, 1 / math.factorial(terms))
    for k in reversed(range(terms)):
        series = fma(builder, series, r, constant(kind, 1 / math.factorial(k)))
    integer = INT[4 if isinstance(element, ir.FloatType) else 8]
    integers = ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer
    exponent = builder.shl(builder.add(builder.fptosi(n, integers), constant(integers, bias)), constant(integers, place))
    return builder.fmul(series, builder.bitcast(exponent, kind))


def sigmoid(builder: ir.IRBuilder, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    one = constant(x.type, 1.0)
    return builder.fdiv(one, builder.fadd(one, exp(builder, builder.fneg(x))))


def tanh(builder: ir.IRBuilder, x: Any) -> Any:
    """2 / (1 + exp(-2 x)) - 1: as exact as a sum with other numbers of its size, not as exact near 0 as torch's."""
    two = constant(x.type, 2.0)
    return fma(builder, two, sigmoid(builder, builder.fmul(two, x)), constant(x.type, -1.0))


def relu(builder: ir.IRBuilder, x: Any) -> Any:
    """max(x, 0)."""
    return least(builder, x, 0.0)


def elu(builder: ir.IRBuilder, x: Any) -> Any:
    """x if it is positive, and else exp(x) - 1."""
    zero = constant(x.type, 0.0)
    below = builder.fsub(exp(builder, most(builder, x, 0.0)), constant(x.type, 1.0))
    return builder.select(builder.fcmp_ordered(">", x, zero), x, below)


def gate(builder: ir.IRBuilder, value: Any, gate: Any) -> Any:
    """tanh(value) * sigmoid(gate)."""
    return builder.fmul(tanh(builder, value), sigmoid(builder, gate))


# Each function, and how many inputs it has.
FUNCTIONS = {
    "copy": (lambda builder, x: x, 1),
    "neg": (lambda builder, x: builder.fneg(x), 1),
    "relu": (relu, 1),
    "elu": (elu, 1),
    "sigmoid": (sigmoid, 1),
    "tanh": (tanh, 1),
    "exp": (exp, 1),
    "add": (lambda builder, a, b: builder.fadd(a, b), 2),
    "mul": (lambda builder, a, b: builder.fmul(a, b), 2),
    "gate": (gate, 2),
    "addcmul": (lambda builder, a, b, c: fma(builder, b, c, a), 3),
}


def _call(builder: ir.IRBuilder, name: str, *values: Any) -> Any:
    """One of LLVM's own functions, which are named by their type."""
    kind = values[0].type
    element, count = (kind.element, f"v{kind.count}") if isinstance(kind, ir.VectorType) else (kind, "")
    name = f"{name}.{count}{'f32' if isinstance(element, ir.FloatType) else 'f64'}"
    return builder.call(get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(values)), name), list(values))
