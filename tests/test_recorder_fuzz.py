"""Recorder and interpreter against torch: random calls on random views give the same numbers and touch nothing else."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextpixel.compiled.instructions import NotRecordableError
from nextpixel.compiled.interpreter import Program
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.recorder import Recorder
from nextpixel.layers.pointwise import concat_elu, concat_elu_to, gated_activation_

UNARY = {
    "neg": (torch.neg, None),
    "relu": (torch.relu, torch.relu_),
    "sigmoid": (torch.sigmoid, torch.Tensor.sigmoid_),
    "tanh": (torch.tanh, torch.Tensor.tanh_),
    "elu": (torch.nn.functional.elu, lambda x: torch.nn.functional.elu(x, inplace=True)),
}
BINARY = {"add": (torch.add, torch.Tensor.add_), "mul": (torch.mul, torch.Tensor.mul_)}

KINDS = ("unary", "binary", "number", "addcmul", "copy", "set", "product", "product", "gate", "elu", "cat")


class Place:
    """A call's tensors, by the numbers that make them: a buffer with room around it, and a view of it."""

    def __init__(self, data, dtype):
        self.data, self.dtype, self.buffers = data, dtype, []

    def view(self, shape, expands=False):
        """A view of this shape in a buffer of its own: axes in any order, gaps, steps and, if it is only read, strides of 0."""
        shape = list(shape)
        if expands:
            shape = [1 if self.data.draw(st.integers(0, 4)) == 0 else size for size in shape]
        order = self.data.draw(st.permutations(range(len(shape))))
        if self.data.draw(st.booleans()):
            order = sorted(order)
        steps = [self.data.draw(st.sampled_from([1, 1, 1, 2])) for _ in shape]
        room = [self.data.draw(st.integers(0, 2)) for _ in shape]
        sizes = [size * step + gap for size, step, gap in zip(shape, steps, room, strict=True)]
        seed = self.data.draw(st.integers(0, 2**16))
        values = torch.randn([sizes[axis] for axis in order], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        buffer = (2 * values).to(self.dtype)
        self.buffers.append(buffer)
        back = [order.index(axis) for axis in range(len(shape))]
        starts = [self.data.draw(st.integers(0, gap)) for gap in room]
        slices = tuple(slice(at, at + size * step, step) for at, size, step in zip(starts, shape, steps, strict=True))
        return len(self.buffers) - 1, back, slices

    @staticmethod
    def of(view, buffers):
        number, back, slices = view
        return buffers[number].permute(back)[slices]


def a_call(data, place):
    """A random call: a function of the buffers."""
    kind = data.draw(
        st.sampled_from(["unary", "binary", "number", "addcmul", "copy", "set", "product", "chain", "gate", "elu", "cat"])
    )
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    of = Place.of
    if kind == "unary":
        new, in_place = UNARY[data.draw(st.sampled_from(sorted(UNARY)))]
        x, out = place.view(shape, expands=True), place.view(shape)
        if in_place and data.draw(st.booleans()):
            return lambda buffers: in_place(of(out, buffers))
        return lambda buffers: of(out, buffers).copy_(new(of(x, buffers)))
    if kind == "binary":
        new, in_place = BINARY[data.draw(st.sampled_from(sorted(BINARY)))]
        x, y, out = place.view(shape, True), place.view(shape, True), place.view(shape)
        if data.draw(st.booleans()):
            return lambda buffers: in_place(of(out, buffers), of(y, buffers))
        if data.draw(st.booleans()):
            return lambda buffers: new(of(x, buffers).expand(shape), of(y, buffers), out=of(out, buffers))
        return lambda buffers: of(out, buffers).copy_(new(of(x, buffers), of(y, buffers)))
    if kind == "number":
        number, x, out = data.draw(st.floats(-2, 2)), place.view(shape), place.view(shape)
        return lambda buffers: of(out, buffers).copy_((of(x, buffers) * number + 0.5).add_(number))
    if kind == "addcmul":
        x, a, b, out = place.view(shape), place.view(shape, True), place.view(shape, True), place.view(shape)
        if data.draw(st.booleans()):
            return lambda buffers: of(out, buffers).addcmul_(of(a, buffers), of(b, buffers))
        return lambda buffers: torch.addcmul(of(x, buffers), of(a, buffers), of(b, buffers), out=of(out, buffers))
    if kind == "copy":
        x, out = place.view(shape, True), place.view(shape)
        return lambda buffers: of(out, buffers).copy_(of(x, buffers))
    if kind == "set":
        x, out, first = place.view(shape), place.view(shape), data.draw(st.integers(0, shape[0] - 1))
        return lambda buffers: of(out, buffers).__setitem__(slice(first, None), of(x, buffers)[first:])
    if kind == "product":
        m, k, n = (data.draw(st.integers(1, 40)) for _ in range(3))
        a, w, add, out = place.view([m, k]), place.view([k, n]), place.view([m, n], True), place.view([m, n])
        how = data.draw(st.sampled_from(["mm", "addmm", "addmm_", "then add", "then itself"]))
        calls = {
            "mm": lambda b: torch.mm(of(a, b), of(w, b), out=of(out, b)),
            "addmm": lambda b: torch.addmm(of(add, b), of(a, b), of(w, b), out=of(out, b)),
            "addmm_": lambda b: of(out, b).addmm_(of(a, b), of(w, b)),
            "then add": lambda b: torch.mm(of(a, b), of(w, b), out=of(out, b)).add_(of(add, b)),
            "then itself": lambda b: (y := torch.mm(of(a, b), of(w, b), out=of(out, b))).add_(y),
        }
        return calls[how]
    if kind == "gate":
        x, y, out = place.view(shape), place.view(shape), place.view(shape)
        # It may spoil its inputs.
        return lambda b: (gated_activation_(of(x, b), of(y, b), of(out, b)), of(x, b).zero_(), of(y, b).zero_())
    if kind == "elu":
        dim, x = data.draw(st.integers(0, len(shape) - 1)), place.view(shape)
        wide = [size * (1 + (axis == dim)) for axis, size in enumerate(shape)]
        out = place.view(wide)
        if data.draw(st.booleans()):
            return lambda b: of(out, b).copy_(concat_elu(of(x, b), dim=dim))
        return lambda b: concat_elu_to(of(out, b), *of(out, b).chunk(2, dim), of(x, b))
    dim = data.draw(st.integers(0, len(shape) - 1))
    x, y = place.view(shape), place.view(shape)
    out = place.view([size * (1 + (axis == dim)) for axis, size in enumerate(shape)])
    return lambda b: of(out, b).copy_(torch.cat([of(x, b), of(y, b)], dim))


def agree(data, dtype):
    place = Place(data, dtype)
    calls = [a_call(data, place) for _ in range(data.draw(st.integers(1, 3)))]
    expected, found = ([buffer.clone() for buffer in place.buffers] for _ in range(2))

    def run(buffers):
        for call in calls:
            call(buffers)

    memory = Memory(dtype, 0)
    try:
        blocks = Recorder(memory, torch.zeros(1, 1, 1, 1)).record(lambda: run(found), row=0)
    except NotRecordableError:
        return False
    assert all(map(torch.equal, found, expected))  # nothing is computed while it records
    (blocks,) = memory.close([blocks])
    Program(blocks, memory)()
    run(expected)
    tolerance = {"rtol": 1e-12, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    return True


QUICK = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@each_dtype
def test_random_calls_on_random_views(dtype):
    done = []

    @QUICK
    @given(st.data())
    def check(data):
        done.append(agree(data, dtype))

    check()
    assert sum(done) > len(done) / 2  # most are recorded


@pytest.mark.slow
@each_dtype
@LONG
@given(data=st.data())
def test_many_random_calls_on_random_views(data, dtype):
    agree(data, dtype)
