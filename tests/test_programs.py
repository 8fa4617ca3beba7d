"""What programs must never do: read memory that has moved or belongs to others, grow with the image, or change the model."""

import copy
import ctypes
import sys
import threading
import time
import tracemalloc
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from pairs import Some, pairs
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel.compiled.instructions import FIELD, Block, NotRecordableError
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.recorder import Recorder
from nextpixel.compiled.row_programs import RowPrograms
from nextpixel.compiled.step_programs import Stepped, _Allocated, scan_bytes
from nextpixel.errors import InputError
from nextpixel.layers.pointwise import concat_elu, recordable
from nextpixel.likelihoods import LIKELIHOODS
from nextpixel.scan.evaluating import evaluating
from nextpixel.scan.fixed_point import as_places, fixed_point
from nextpixel.scan.job import DrawJob
from nextpixel.scan.raster import Draw, Score, raster

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
METHODS = ("cached", "compiled", "naive", "fixed-point")


# --- memory that moves ---------------------------------------------------------------------------------------------------


def clone_data(model):
    for p in model.parameters():
        p.data = p.data.clone()


def to_another_process(model):
    """What sending it does here: the weights move to shared memory."""
    import torch.multiprocessing  # noqa: F401

    ForkingPickler.dumps(model)


@contextmanager
def freed_memory_taken(sizes):
    """All memory of these sizes that has been freed belongs to somebody else now, and holds other numbers."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    places = [(libc.malloc(size), size) for size in sizes for _ in range(20)]
    try:
        for place, size in places:
            ctypes.memset(place, 0x40, size)  # 32.5 in every float64
        yield
    finally:
        for place, _ in places:
            libc.free(place)


MOVES = {
    "share_memory": lambda model: model.share_memory(),
    "sent to another process": to_another_process,
    "double, float, double": lambda model: model.float().double(),
    "p.data = p.data.clone()": clone_data,
    "load_state_dict(assign)": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
}


@pairs(name=nextpixel.MODELS, call=["sample", "complete"], move=MOVES)
def test_weights_that_move_leave_the_images_as_they_are(name, call, move):
    model = tiny_model(name, (1, 6, 7), levels=17).float().double()  # numbers that float32 holds, so that no move changes them
    x, known = images(model), images(model, seed=8) < 5

    def draw(method):
        if call == "sample":
            return model.sample(2, seed=5, method=method)
        return model.complete(x, known, seed=5, method=method)

    draw("compiled")
    MOVES[move](model)
    with freed_memory_taken([size for p in model.parameters() for size in (p.nbytes, p.nbytes + 64)]):
        assert torch.equal(draw("compiled"), draw("cached"))


@each_model
def test_programs_read_none_of_the_model_s_memory(name):
    """All that they point to is theirs: with the weights overwritten, they still draw what they were recorded for."""
    for condition in ("none", "spatial-map"):
        model = tiny_model(name, (2, 6, 7), levels=5, condition=condition)
        x = torch.zeros(2, 2, 6, 7, dtype=torch.long)
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        h = model.encode_condition(random_cond(model), 2, 6, 7)
        with torch.inference_mode():
            part, h = next(iter(model.parts(x, h)))
            places = DrawJob(x, noise, None, h, model.likelihood).on_grid(model.strides[0], h)
            rows = RowPrograms(part, places)
            rows.run(places, lambda: None)
            expected = x.clone()
            x.zero_()
            for p in (*model.parameters(), *model.buffers()):
                p.data.fill_(float("nan"))
            rows.run(places, lambda: None)
        assert torch.equal(x, expected)


# --- memory of programs --------------------------------------------------------------------------------------------------


def lines_of(programs):
    return sum(len(block.table) for program in programs for block in program.blocks)


@pairs(name=nextpixel.MODELS, condition=["none", "labels", "spatial-map"], inputs=["intensity", "embedding"])
def test_programs_are_as_long_for_a_wide_image_as_for_a_narrow_one(name, condition, inputs):
    model, lengths = tiny_model(name, (3, 2, 8), levels=5, condition=condition, inputs=inputs), []
    for width in (64, 512):
        cond = random_cond(model, 2, (2, width))
        h = model.encode_condition(cond, 2, 2, width)
        x = torch.zeros(2, 3, 2, width, dtype=torch.long)
        places = DrawJob(x, torch.zeros(x.shape, dtype=torch.float64), None, h, model.likelihood)
        with torch.inference_mode():
            part, part_h = next(iter(model.parts(x, h)))
            rows = RowPrograms(part, places.on_grid(model.strides[0], part_h))
            stepped = next(iter(Stepped(model).parts(x, h)))[0]
            steps = stepped.start(2, part_h, (rows.height, rows.width))
        lengths.append([lines_of(p.values()) for p in (rows.clocks.programs, rows.steps, steps.clocks.programs, steps.steps)])
    assert lengths[0] == lengths[1]


@each_model
def test_python_keeps_nothing_for_each_column(name):
    model = tiny_model(name, (1, 1, 8), levels=2)
    taken = []
    for width in (2**9, 2**14):
        x = torch.zeros(1, 1, 1, width, dtype=torch.long)
        tracemalloc.start()
        with torch.inference_mode():
            for part, h in Stepped(model).parts(x):
                part.start(1, h, (1, width))
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert taken[1] < taken[0] + 100_000


# --- reach ---------------------------------------------------------------------------------------------------------------


def forged(change, times=1):
    """The error about a line out = a + b of two rows of 8 numbers in memory of 16, with some columns changed."""
    memory = Memory(torch.float64, 4096)
    out, a, b = (torch.zeros(2, 8, dtype=torch.float64) for _ in range(3))
    recorder = Recorder(memory, torch.zeros(1, 1, 1, 1))
    (block,) = recorder.record(lambda: torch.add(a, b, out=out), row=0)
    table = block.table.copy()
    for column, value in change.items():
        table[0, FIELD[column]] = value(table[0, FIELD[column]], memory) if callable(value) else value
    memory.close([[Block(table, times)]])


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({"n2": 9}, 1),
        ({"n1": 3}, 1),
        ({"n0": 2, "a_0": 1}, 1),
        ({"out_1": 9}, 1),
        ({"b_1": -1}, 1),
        ({"a": lambda at, memory: at + 8}, 1),
        ({"a": lambda at, memory: at - 8}, 1),
        ({"out": 0}, 1),
        ({"b": 4096}, 1),
        ({"a_jump": 8}, 2),
        ({"out_jump": -8}, 3),
        ({"n1": 2**40, "a_1": 2**40}, 1),  # whose product is 0 in 64 bits
        ({"a_jump": 2**62}, 5),
        ({"out": lambda at, memory: memory.new(16).data_ptr()}, 1),  # known, but not to be written
        ({"n1": 0}, 1),
        ({"opcode": 99}, 1),
    ],
    ids=range(16),
)
def test_an_instruction_that_reaches_beyond_its_memory_is_refused(change, times):
    forged({})
    with pytest.raises(NotRecordableError, match=r"an instruction that|of no elements"):
        forged(change, times)


def draw_block(law, change=(), scratch=4096, temperature=1.0):
    from nextpixel.compiled.row_programs import record_draw

    memory, params = Memory(torch.float64, scratch), torch.zeros(3, law.params, dtype=torch.float64)
    symbols, noise, known = (
        torch.zeros(3, 2, dtype=torch.long),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )
    memory.write(symbols)
    recorder = Recorder(memory, torch.zeros(1, 1, 1, 1))
    (block,) = recorder.record(lambda: record_draw(recorder, law, params, symbols, 1, noise, known, temperature), row=0)
    for column, by in change:
        block.table[0, FIELD[column]] += by
    return memory.close([[block]])


BEYOND = [("n0", 1), ("out_0", 1), ("a_0", 5), ("b_0", 1), ("c_0", 1), ("b_1", 4096)]


@pytest.mark.parametrize(
    ("levels", "change"), [*((2, change) for change in BEYOND), *((5, change) for change in [*BEYOND, ("n1", 5)])]
)
def test_a_draw_that_reaches_beyond_its_memory_is_refused(levels, change):
    law = nextpixel.likelihoods.Categorical(2, levels)
    draw_block(law)
    with pytest.raises(NotRecordableError, match="an instruction that reaches"):
        draw_block(law, [change])


@pytest.mark.parametrize("change", [("n2", 1), ("k", 1), ("out_1", 2), ("a_0", 40)])
def test_a_mixture_that_reaches_beyond_its_memory_is_refused(change):
    law = nextpixel.likelihoods.DiscretizedLogisticMixture(2, 16, 3)
    draw_block(law)
    with pytest.raises(NotRecordableError, match="an instruction that reaches"):
        draw_block(law, [change])


def test_a_draw_that_needs_more_scratch_memory_is_refused():
    with pytest.raises(NotRecordableError, match="a draw that needs more than"):
        draw_block(nextpixel.likelihoods.Categorical(2, 1000), scratch=10)


def test_a_scan_that_writes_its_weights_is_no_program():
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    memory = Memory(torch.float64, 0, [weight])
    blocks = Recorder(memory, torch.zeros(1, 1, 1, 1)).record(lambda: weight.detach().add_(1), row=0)
    with pytest.raises(NotRecordableError, match="writes memory which is not the scan's own"):
        memory.close([blocks])


# --- threads -------------------------------------------------------------------------------------------------------------


def in_threads(*functions):
    """Run functions at once; what they raise is raised here."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_call_in_one_thread_is_not_recorded_by_another():
    """A thread that records, and others that compute with the same functions, meanwhile."""
    before = sys.getswitchinterval()
    end, x = time.monotonic() + 1.5, torch.randn(3, 4)
    expected = concat_elu(x)

    def record():
        while time.monotonic() < end:
            recorder = Recorder(Memory(torch.float32, 0), torch.zeros(1, 1, 1, 1))
            (block,) = recorder.record(lambda: concat_elu(x), row=0)
            assert len(block.table) == 1

    def compute():
        while time.monotonic() < end:
            assert torch.equal(concat_elu(x), expected)

    sys.setswitchinterval(1e-5)
    try:
        in_threads(record, record, compute, compute)
    finally:
        sys.setswitchinterval(before)


def test_another_thread_may_end_its_recording_at_any_instruction():
    x = torch.randn(3, 4)
    expected, code, ended = concat_elu(x), concat_elu.__code__, False
    for instruction in range(100):
        begun, end, seen = threading.Event(), threading.Event(), []
        recorder = Recorder(Memory(torch.float32, 0), torch.zeros(1, 1, 1, 1))
        thread = threading.Thread(target=recorder.record, args=(lambda begun=begun, end=end: (begun.set(), end.wait()), 0))

        def trace(frame, event, arg, instruction=instruction, seen=seen, end=end, thread=thread):
            frame.f_trace_opcodes = frame.f_code is code
            if event == "opcode":
                seen.append(1)
                if len(seen) == instruction + 1:
                    end.set()
                    thread.join()
            return trace if frame.f_code is code else None

        thread.start()
        begun.wait()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            found = concat_elu(x)
        finally:
            sys.settrace(before)
            ended = not end.is_set()
            end.set()
            thread.join()
        assert torch.equal(found, expected)
        if ended:
            break
    assert ended
    assert instruction > 5


def test_keywords_are_taken_and_others_are_refused():
    x = torch.randn(3, 4).double()
    assert torch.equal(concat_elu(x, dim=0), concat_elu(x, 0))
    assert torch.equal(concat_elu(x=x), concat_elu(x))
    recorder = Recorder(Memory(torch.float64, 0), torch.zeros(1, 1, 1, 1))
    (block,) = recorder.record(lambda: concat_elu(x=x, dim=0), row=0)
    assert len(block.table) == 1
    with pytest.raises(NotRecordableError, match=r"torch.add has no instruction: .* 'alpha'"):
        recorder.record(lambda: torch.add(x, x, alpha=2), row=0)


def test_recordable_functions_compile_without_a_break():
    compiled = torch.compile(lambda x: concat_elu(x, dim=1) * 2, backend="eager", fullgraph=True)
    x = torch.randn(3, 4)
    assert torch.equal(compiled(x), concat_elu(x) * 2)


def test_a_recordable_function_runs_under_other_modes():
    @recordable
    def double(x):
        return x + x

    with torch.device("cpu"):
        assert double(torch.ones(2)).tolist() == [2, 2]


# --- the model's mode, and autocast --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_draw_leaves_every_submodule_s_mode(method):
    model = tiny_model("pixelcnn++", (1, 3, 4), levels=3, likelihood="categorical", dropout=0.5).train()
    model.head.eval()  # frozen
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    drawn = model.sample(2, seed=3, method=method)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(drawn, copy.deepcopy(model).eval().sample(2, seed=3, method="cached"))


@pytest.mark.parametrize("method", ["cached", "compiled", "fixed-point"])
def test_two_draws_at_once_leave_a_training_model_in_training(method):
    model, seen = tiny_model("pixelcnn++", (1, 4, 5), levels=3, likelihood="categorical", dropout=0.5).train(), []
    expected, stop = model.sample(4, seed=1, method=method), threading.Event()

    def draw():
        for _ in range(4):
            assert torch.equal(model.sample(4, seed=1, method=method), expected)

    def watch():
        while not stop.is_set():
            seen.append(all(module.training for module in model.modules()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        in_threads(draw, draw, draw)
    finally:
        stop.set()
        watcher.join()
    assert seen
    assert all(seen)  # not even for a moment is it in another mode


@pytest.mark.parametrize("name", nextpixel.MODELS)
def test_a_twin_shares_all_weights_and_nothing_of_the_mode(name):
    model = tiny_model(name, condition="labels", inputs="embedding").train()
    twin = evaluating(model)
    assert not any(module.training for module in twin.modules())
    assert all(module.training for module in model.modules())
    for ours, theirs in ((model.named_parameters(), twin.named_parameters()), (model.named_buffers(), twin.named_buffers())):
        assert [(n, id(t)) for n, t in ours] == [(n, id(t)) for n, t in theirs]
    assert not {id(module) for module in model.modules()} & {id(module) for module in twin.modules()}


@pairs(name=Some(["pixelcnn++", "multiscale", "diagonal-bilstm"], nextpixel.MODELS), method=METHODS)
def test_a_caller_s_autocast_changes_no_image(name, method):
    model = tiny_model(name, (1, 4, 5), 256, "spatial-map").float()
    cond, x, known = random_cond(model).float(), images(model), images(model, seed=8) < 99
    how = {"cond": cond, "seed": 2, "method": method}
    expected = model.sample(2, **how), model.complete(x, known, **how), model.interpolate(cond, cond.flip(0), 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.sample(2, **how), model.complete(x, known, **how), model.interpolate(cond, cond.flip(0), 2, 2)
    assert all(map(torch.equal, found, expected))


@each_model
def test_the_loops_themselves_have_no_autocast(name):
    model = tiny_model(name, (1, 4, 5), 16).float()
    x, noise = images(model), torch.rand(2, 1, 4, 5, dtype=torch.float64)

    def nats(scannable):
        score = Score(model.likelihood)
        raster(scannable, x.clone(), score)
        return score.nats

    def swept():
        y = x.clone()
        fixed_point(model, y, Draw(model.likelihood, as_places(noise)))
        return y

    expected = nats(model), nats(Stepped(model)), swept()
    with torch.autocast("cpu", torch.bfloat16):
        found = nats(model), nats(Stepped(model)), swept()
    assert all(map(torch.equal, found, expected))


# --- numbers that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_model
def test_weights_that_are_not_finite_draw_nothing(name, dtype, bad):
    model = tiny_model(name, (1, 3, 4), levels=3, condition="vector").to(dtype)
    cond = random_cond(model).to(dtype)
    *_, (parameter, weight) = model.named_parameters()
    calls = {
        **{method: lambda method=method: model.sample(2, cond, method=method) for method in METHODS},
        "complete": lambda: model.complete(images(model), torch.tensor(False), cond=cond),
        "interpolate": lambda: model.interpolate(cond, cond.flip(0), 2, 2),
    }
    weight.data.view(-1)[-1] = bad
    for call in calls.values():
        with pytest.raises(InputError, match=f"the model's {parameter} is not finite: it holds {bad}"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 8, 19])
def test_functions_of_no_number_are_none(dtype, width):
    from test_compiled import ELEMENTWISE, record

    for name, function in ELEMENTWISE.items():
        if name == "zero":
            continue
        x, y, z = (torch.randn(1, width).to(dtype) for _ in range(3))
        x[0, -1] = y[0, -1] = float("nan")
        expected = [t.clone() for t in (x, y, z)]
        function(*expected)
        record(lambda function=function, x=x, y=y, z=z: function(x, y, z), dtype)()
        for found, wanted in zip((x, y, z), expected, strict=True):
            assert torch.equal(found.isnan(), wanted.isnan()), name


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("levels", [2, 16])
def test_a_symbol_without_probabilities_is_told(likelihood, levels):
    """Weights that are finite, and whose products are not."""
    model = tiny_model("gated-pixelcnn", (1, 3, 4), levels, likelihood=likelihood)
    with torch.no_grad():
        for p in model.head.parameters():
            p.fill_(1e200)
        model.head.out.weight[:, ::2].neg_()
        model.layers[-1].out.weight.mul_(1e300)
    with pytest.raises(InputError, match="the model gives no probabilities"):
        model.sample(2, method="compiled")


@pytest.mark.parametrize(
    ("name", "condition"),
    [*((name, "none") for name in nextpixel.MODELS), ("pixelcnn", "spatial-map"), ("pixelcnn++", "spatial-map")],
)
def test_what_a_scan_takes_is_known_before(name, condition):
    model, size, batch = tiny_model(name, (3, 4, 4), levels=5, condition=condition), (5, 700), 3
    expected = scan_bytes(model, batch, size, places=condition == "spatial-map")
    x, taken = torch.zeros(batch, 3, *size, dtype=torch.long), 0
    with torch.inference_mode():
        parts = Stepped(model).parts(x, model.encode_condition(random_cond(model, batch, size), batch, *size))
        for stride, (part, h) in zip(model.strides, parts, strict=True):
            with _Allocated() as allocated:
                part.start(batch, h, tuple(x[:, :, ::stride, ::stride].shape[2:]))
            taken += allocated.bytes
    assert taken <= expected < 2 * taken
