"""Scans as programs: they draw what the step-by-step scan draws, and their parts do what torch does."""

import gc
import math
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from pairs import Some, pairs
from tiny import CONDITIONS, FEW, images, random_cond, tiny_model

import nextpixel
from nextpixel import compiled
from nextpixel.compiled import program_cache, sample
from nextpixel.compiled.emitter import LayoutError, RowIndex, lay_out
from nextpixel.compiled.instructions import ADDRESSES, FIELDS, JUMPS, OPCODES, NotRecordableError
from nextpixel.compiled.interpreter import Program
from nextpixel.compiled.memory import Memory
from nextpixel.compiled.recorder import Recorder, all_columns
from nextpixel.compiled.row_programs import RowPrograms
from nextpixel.compiled.simd import panel_registers
from nextpixel.compiled.step_programs import Stepped
from nextpixel.errors import InputError
from nextpixel.likelihoods import Categorical, DiscretizedLogisticMixture
from nextpixel.sampling.draw import METHODS, choose_method, guided_likelihood
from nextpixel.scan.job import DrawJob

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

VARIANTS = {
    "gated, mixture": ("gated-pixelcnn", {"likelihood": "logistic-mixture"}),
    "pixelcnn, 7x7": ("pixelcnn", {"kernel_size": 7}),
    "pixelcnn, 1x1": ("pixelcnn", {"kernel_size": 1}),
    "pixelcnn++, one stage": ("pixelcnn++", {"stages": 1}),
    "pixelcnn++, two stages": ("pixelcnn++", {"stages": 2}),
    "pixelcnn++, no short-cuts": ("pixelcnn++", {"short_cuts": False}),
    "pixelcnn++, categorical": ("pixelcnn++", {"likelihood": "categorical"}),
    "row-lstm, skips": ("row-lstm", {"skip": True}),
    "row-lstm, no residuals": ("row-lstm", {"residual": False}),
    "diagonal-bilstm, skips only": ("diagonal-bilstm", {"skip": True, "residual": False}),
}


def both(model, n, **how):
    """What the step-by-step scan draws, and what the program draws."""
    return (model.sample(n, seed=5, method=method, **how) for method in ("cached", "compiled"))


def record(function, dtype=torch.float64, row=0):
    """The program of some calls, and its memory."""
    memory = Memory(dtype, 4096)
    (blocks,) = memory.close([Recorder(memory, torch.zeros(1, 1, 1, 1)).record(function, row=row, place=True)])
    return Program(blocks, memory)


# --- whole scans ---------------------------------------------------------------------------------------------------------


@pairs(name=nextpixel.MODELS, channels=[1, 3], size=[(5, 26), (9, 7), (1, 8), (6, 1)])
def test_a_program_draws_the_scan_s_images(name, channels, size):
    a, b = both(tiny_model(name, (channels, 4, 5), levels=17), 3, size=size)
    assert torch.equal(a, b)
    assert len(a.unique()) > 1  # a constant would hide what goes wrong


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_program_draws_every_variant_s_images(variant, channels):
    name, overrides = VARIANTS[variant]
    a, b = both(tiny_model(name, (channels, 9, 10), levels=5, **overrides), 2)
    assert torch.equal(a, b)


@pytest.fixture
def with_threads():
    """Set the number of torch's threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pairs(name=nextpixel.MODELS, condition=Some(FEW, CONDITIONS), threads=[1, 2])
def test_every_chunk_has_its_own_condition_known_symbols_and_noise(name, condition, threads, with_threads, monkeypatch):
    monkeypatch.setattr(sample, "CHUNK", 2)
    model = tiny_model(name, (3, 3, 4), levels=2, condition=condition)
    x, cond = images(model, 3), random_cond(model, 3)
    known = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)) < 0.3
    sampled = model.sample(3, cond, seed=3, method="cached")
    completed = model.complete(x, known, 1, cond, seed=3, method="cached")
    with_threads(threads)
    assert torch.equal(sampled, model.sample(3, cond, seed=3, method="compiled"))
    assert torch.equal(completed, model.complete(x, known, 1, cond, seed=3, method="compiled"))
    assert torch.get_num_threads() == threads
    assert torch.equal(completed[known], x[known].to(completed.dtype))


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_a_program_draws_at_any_temperature(levels, temperature):
    a, b = both(tiny_model("gated-pixelcnn", (2, 6, 6), levels), 4, temperature=temperature)
    assert torch.equal(a, b)


@pairs(name=nextpixel.MODELS, levels=[2, 5], guidance=[-1.0, 0.0, 0.5, 3.0])
def test_a_program_draws_under_guidance(name, levels, guidance):
    likelihood = {} if name == "multiscale" else {"likelihood": "categorical"}
    model = tiny_model(name, (2, 4, 7), levels, "labels", **likelihood)
    a, b = both(model, 5, cond=random_cond(model, 5), guidance=guidance)
    assert torch.equal(a, b)


@each_model
def test_float32_images_differ_by_rounding_only(name):
    model = tiny_model(name, (1, 8, 9), levels=4).float()
    a, b = both(model, 64)
    assert (a.flatten(1) == b.flatten(1)).all(1).float().mean() > 0.9  # an image differs where noise met a bound


@each_model
def test_progress_is_told_alike_by_every_method(name, monkeypatch):
    monkeypatch.setattr(sample, "CHUNK", 2)
    monkeypatch.setattr("nextpixel.sampling.draw.SCAN_BATCH", 6)
    model = tiny_model(name)
    rows = 2 * sum(-(-3 // stride) for stride in model.strides)
    assert model.scan_rows(11) == rows
    for method in METHODS:
        counts = []
        model.sample(11, method=method, progress=lambda *count: counts.append(count))  # noqa: B023
        if method == "fixed-point":
            assert counts == sorted(counts)
            assert counts[-1] == (rows, rows)
            assert counts.count((rows, rows)) == 1
        else:
            assert counts == [(row, rows) for row in range(1, rows + 1)]


# --- the program cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch):
    """How often rows were recorded."""
    counts = []
    original = RowPrograms.__init__
    monkeypatch.setattr(RowPrograms, "__init__", lambda self, *args: (counts.append(1), original(self, *args))[1])
    return counts


def test_the_same_again_records_nothing_and_another_call_does(recorded):
    model = tiny_model("gated-pixelcnn", levels=3)
    first = model.sample(2, seed=5, method="compiled")
    assert torch.equal(first, model.sample(2, seed=5, method="compiled"))
    assert len(recorded) == 1
    for n, change in enumerate(({"size": (4, 4)}, {"temperature": 0.5}), start=2):
        a, b = both(model, 2, **change)
        assert torch.equal(a, b)
        assert len(recorded) == n
    model.complete(images(model), torch.tensor(False), method="compiled")
    assert len(recorded) == 4
    for change in ({}, {"size": (4, 4)}, {}, {"temperature": 0.5}):  # a few calls of each kind alternate
        a, b = both(model, 2, **change)
        assert torch.equal(a, b)
    assert len(recorded) == 4


def test_the_cache_holds_a_few_entries_and_evicts_the_oldest(recorded, monkeypatch):
    program_cache.forget()
    models = [tiny_model("pixelcnn", seed=seed) for seed in range(3)]
    monkeypatch.setattr(program_cache, "OF_ALL", 2)
    for model in (*models, models[1], models[2], models[0]):
        model.sample(1, method="compiled")
    assert len(recorded) == 3 + 1
    assert sum(map(len, program_cache._entries.values())) == 2
    monkeypatch.setattr(program_cache, "BYTES", 1000)
    models[0].sample(1, method="compiled")
    assert sum(map(len, program_cache._entries.values())) == 0
    monkeypatch.undo()
    monkeypatch.setattr(program_cache, "OF_A_MODEL", 2)
    for width in (3, 4, 5):
        models[0].sample(1, method="compiled", size=(2, width))
    assert len(program_cache._entries[models[0]]) == 2


def test_programs_hold_weights_once():
    """In the order of products alone: neither those that they were made from, nor a copy to compare with."""
    model = tiny_model("pixelcnn", features=64, blocks=6, head_features=64)
    weights = sum(p.nbytes for p in model.parameters())
    program_cache.forget()
    model.sample(1, method="compiled")
    (entry,) = program_cache._entries[model]
    held = sum(storage.nbytes() for storage in entry.programs[0].memory.owned.values())
    assert 0.5 * weights < held < 1.3 * weights


@pytest.mark.parametrize("change", ["step", "data", "buffer", "dtype"])
def test_other_weights_make_another_program(change, recorded):
    model = tiny_model("pixelcnn", levels=3)
    model.sample(2, method="compiled")
    if change == "step":
        with torch.no_grad():
            model.first.weight.mul_(-1)
    elif change == "data":
        next(iter(model.head.parameters())).data.mul_(-1)  # which no version counter of torch's tells
    elif change == "buffer":
        model.encode.step.mul_(0.5)
    else:
        model.float()
    a, b = both(model, 3)
    assert torch.equal(a, b)
    assert len(recorded) == 2


def test_two_calls_at_once_have_a_program_each():
    model = tiny_model("gated-pixelcnn", (1, 12, 12), levels=3)
    expected = [model.sample(4, seed=seed, method="cached") for seed in range(4)]
    found = {}

    def work(seed):
        found[seed] = [model.sample(4, seed=seed, method="compiled") for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(drawn, expected[seed]) for seed in range(4) for drawn in found[seed])


def test_programs_go_with_their_model():
    model = tiny_model("pixelcnn")
    model.sample(1, method="compiled")
    gone = weakref.ref(model)
    assert model in program_cache._entries
    del model
    gc.collect()
    assert gone() is None


# --- what is no program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [
        ("mps", torch.float32, "on a processor or a CUDA device, not on mps"),
        ("cuda", torch.bfloat16, None),
        ("cpu", torch.bfloat16, "float32 or float64, not torch.bfloat16"),
        ("cpu", torch.float32, None),
        ("cpu", torch.float64, None),
    ],
)
def test_reasons_against_a_program(device, dtype, reason):
    found = compiled.why_not(torch.device(device), dtype)
    assert found == reason if reason is None else reason in found


@pytest.mark.parametrize(("kind", "method"), [("cpu", "compiled"), ("cuda", "cached"), ("mps", "cached"), ("meta", "cached")])
def test_the_default_method_of_a_device(kind, method, monkeypatch):
    """Graphs have not run on any GPU yet: there they are drawn by choice."""
    model = tiny_model("pixelcnn")
    monkeypatch.setattr(nextpixel.PixelCNN, "device", torch.device(kind))
    assert choose_method(model, None) == method
    if kind == "cuda":
        assert choose_method(model, "compiled") == "compiled"


def test_a_device_without_float64_is_told_in_one_line(monkeypatch):
    model = tiny_model("pixelcnn", condition="labels")
    monkeypatch.setattr("nextpixel.scan.evaluating.WITHOUT_FLOAT64", ("cpu",))
    for draw in (
        lambda: model.sample(1, 0),
        lambda: model.complete(images(model), torch.tensor(False), cond=0),
        lambda: model.interpolate(0, 1, 2, 1),
    ):
        with pytest.raises(InputError, match=r"drawn with float64 numbers, which a device cpu has not: give model\.cpu\(\)"):
            draw()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_no_instruction_draws_is_chosen_between_compiled_steps(guidance, threads, with_threads, monkeypatch):
    model, stepped = tiny_model("pixelcnn++", levels=9, condition="labels"), []
    assert guided_likelihood(model, guidance).draw_instruction(0, temperature=0.5) is None
    settings = {"cond": 1, "seed": 1, "temperature": 0.5, "guidance": guidance}
    expected, reports = model.sample(5, method="cached", **settings), []
    with_threads(threads)
    monkeypatch.setattr("nextpixel.compiled.sample.Stepped", lambda model: stepped.append(model) or Stepped(model))
    drawn = model.sample(5, method="compiled", progress=lambda *report: reports.append(report), **settings)
    assert torch.equal(drawn, expected)
    assert len(stepped) == threads
    assert reports == [(row, model.scan_rows(5)) for row in range(1, model.scan_rows(5) + 1)]
    known = torch.arange(expected[0].numel()).view(expected.shape[1:]) % 3 == 0
    completed = [model.complete(expected.long(), known, method=method, **settings) for method in ("cached", "compiled")]
    assert torch.equal(*completed)
    assert torch.equal(completed[1][:, known], expected[:, known])


class Unusual(nextpixel.PixelCNN):
    """Asks torch for something that no line stands for."""

    def step(self, cache, x, i, j, c=0):
        return torch.cosh(super().step(cache, x, i, j, c))


class LooksBack(nextpixel.PixelCNN):
    """Reads a row that is no longer in a program's memory."""

    def begin_row(self, cache, x, i):
        if i > 1:
            cache.first.row.image[:, :, 0].copy_(self.encode(x[:, :, i - 2])[:, 0])
        super().begin_row(cache, x, i)

    def row_kind(self, i):
        return int(i > 1)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Unusual, "torch.cosh has no instruction"), (LooksBack, "reads row 0 of the symbols")]
)
def test_what_has_no_record_is_drawn_step_by_step_and_says_so(kind, reason):
    torch.manual_seed(0)
    model = kind(shape=(1, 4, 5), levels=3, features=4, blocks=1).double().eval()
    with pytest.raises(InputError, match=f"method 'compiled': {reason}"):
        model.sample(2, method="compiled")
    with pytest.warns(UserWarning, match=f"drawn step by step, because its scan is no program: {reason}"):
        found = model.sample(2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(found, model.sample(2, seed=1, method="cached"))


def test_a_matrix_that_the_scan_writes_is_no_weight():
    a, weight = torch.randn(2, 3).double(), torch.randn(3, 4).double()
    with pytest.raises(NotRecordableError, match="a matrix that the scan itself writes"):
        record(lambda: (torch.mm(a, weight), weight.add_(1)))


def test_row_indices_remember_how_they_were_reckoned():
    index = (RowIndex(12) >> 2) - 1
    assert index == 2
    assert [index.of(i) for i in (0, 4, 16)] == [-1, 0, 3]
    with pytest.raises(NotRecordableError, match="shifted after a difference"):
        index >> 1


# --- lines ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", ["nothing", "a row", "a matrix", "itself"])
@each_dtype
def test_products_of_any_size(dtype, add):
    generator = torch.Generator().manual_seed(7)
    sizes = [(m, n, k) for m in (1, 3, 8, 17) for n in (1, 5, 16, 31, 33, 48, 60, 80, 125, 130, 250) for k in (1, 7, 400)]
    for m, n, k in sizes:
        wide, weight = torch.randn(m, k + 3, generator=generator).to(dtype), torch.randn(k, n, generator=generator).to(dtype)
        a, out = wide[:, 1 : k + 1], torch.full((m, n + 64), 9.0, dtype=dtype)
        to = out[:, :n]
        addend = {"nothing": None, "a row": torch.randn(n).to(dtype), "a matrix": torch.randn(m, n).to(dtype), "itself": to}[add]
        expected = a @ weight if addend is None else a @ weight + addend
        calls = {
            "nothing": lambda a=a, weight=weight, to=to: torch.mm(a, weight, out=to),
            "itself": lambda a=a, weight=weight, to=to: to.addmm_(a, weight),
        }
        record(calls.get(add, lambda a=a, weight=weight, to=to, addend=addend: torch.addmm(addend, a, weight, out=to)), dtype)()
        torch.testing.assert_close(
            to, expected, rtol=1e-12 if dtype == torch.float64 else 1e-4, atol=1e-4 if dtype == torch.float32 else 1e-10
        )
        assert (out[:, n:] == 9).all()


def test_panels_cover_every_register():
    for registers in range(1, 40):
        panels = panel_registers(registers)
        assert sum(panels) == registers
        assert all(panel == 2 for panel in panels[:-1])
        assert 1 <= panels[-1] <= 3


ELEMENTWISE = {
    "sigmoid": lambda x, y, z: x.sigmoid_(),
    "tanh": lambda x, y, z: x.tanh_(),
    "relu": lambda x, y, z: torch.relu_(x),
    "elu": lambda x, y, z: torch.nn.functional.elu(x, inplace=True),
    "neg": lambda x, y, z: torch.neg(x, out=z),
    "copy": lambda x, y, z: z.copy_(x),
    "add": lambda x, y, z: x.add_(y),
    "add a number": lambda x, y, z: torch.add(x, 0.25, out=z),
    "mul": lambda x, y, z: torch.mul(x, y, out=z),
    "addcmul": lambda x, y, z: z.addcmul_(x, y),
    "addcmul to": lambda x, y, z: torch.addcmul(x, y, z, out=x),
    "set": lambda x, y, z: z.__setitem__((slice(None), slice(1, None)), x[:, 1:]),
    "zero": lambda x, y, z: z.zero_(),
}


@pytest.mark.parametrize("operation", ELEMENTWISE)
@each_dtype
def test_elementwise_lines_of_any_length(operation, dtype):
    generator = torch.Generator().manual_seed(8)
    for width in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 40, 70):
        start = [(4 * torch.randn(3, width + 1, generator=generator)).to(dtype) for _ in range(3)]
        found, expected = ([t.clone() for t in start] for _ in range(2))
        ELEMENTWISE[operation](*(t[:, :width] for t in expected))
        record(lambda found=found, width=width: ELEMENTWISE[operation](*(t[:, :width] for t in found)), dtype)()
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-13 if dtype == torch.float64 else 1e-6, atol=1e-15 if dtype == torch.float64 else 2e-7
            )


@each_dtype
def test_functions_at_extremes(dtype):
    x = torch.tensor([[-1e30, -800.0, -100.0, -88.0, -1e-20, 0.0, 1e-20, 88.0, 100.0, 800.0, 1e30, 0.5]], dtype=dtype)
    for function in (torch.Tensor.sigmoid_, torch.Tensor.tanh_, lambda x: torch.nn.functional.elu(x, inplace=True)):
        found, expected = x.clone(), function(x.clone())
        record(lambda found=found, function=function: function(found), dtype)()
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_calls_that_need_many_strides():
    x, out = torch.randn(4, 3, 5, 6).double(), torch.zeros(6, 3, 4, 10).double()
    record(lambda: out[..., ::2].copy_(x.permute(3, 1, 0, 2)))()
    assert torch.equal(out[..., ::2], x.permute(3, 1, 0, 2))
    assert (out[..., 1::2] == 0).all()
    with pytest.raises(LayoutError, match="no two strides"):
        lay_out(out[..., ::2], x.permute(3, 1, 0, 2))


def test_copies_views_and_joins():
    x, maps = torch.randn(3, 4, 6).double(), torch.tensor([4, 5, 0, 1, 3])
    expected = torch.cat([x.transpose(0, 1).flatten(1)[:, :5], x[..., maps].sum(0)], 1)
    out = torch.zeros(4, 10).double()

    def calls():
        picked = x[..., maps]
        out.copy_(torch.cat([x.transpose(0, 1).flatten(1)[:, :5], picked[0] + picked[1] + picked[2]], 1))

    record(calls)()
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)


# --- draws ---------------------------------------------------------------------------------------------------------------


def draw(law, params, known, c, noise, keep=None, temperature=1.0):
    """What a program draws for channel c of places (B, C)."""
    from nextpixel.compiled.row_programs import record_draw, scratch_bytes

    memory, symbols = Memory(params.dtype, scratch_bytes(law)), known.clone()
    recorder = Recorder(memory, torch.zeros(1, 1, 1, 1))
    blocks = recorder.record(lambda: record_draw(recorder, law, params, symbols, c, noise, keep, temperature), row=0, place=True)
    Program(memory.close([blocks])[0], memory)()
    return symbols[:, c]


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("levels", [2, 3, 17, 256, 1000])
@pytest.mark.parametrize("law", [Categorical, DiscretizedLogisticMixture])
def test_draws_are_those_of_the_likelihood(law, levels, scale):
    law, generator = law(3, levels), torch.Generator().manual_seed(levels)
    batch = 400
    params = scale * torch.randn(batch, law.params, generator=generator, dtype=torch.float64)
    known = torch.randint(levels, (batch, 3), generator=generator)
    noise = torch.rand(batch, generator=generator, dtype=torch.float64)
    noise[:4] = torch.tensor([0.0, 1 - 2**-53, 0.5, 1e-300])
    for c in range(3):
        assert torch.equal(draw(law, params, known, c, noise), law.draw(params, known, c, noise))


def test_mixtures_of_any_number_of_channels_and_components():
    generator = torch.Generator().manual_seed(3)
    for channels, mixtures in ((1, 1), (2, 3), (4, 17), (5, 2)):
        law = DiscretizedLogisticMixture(channels, 32, mixtures)
        params = 2 * torch.randn(200, law.params, generator=generator, dtype=torch.float64)
        known = torch.randint(32, (200, channels), generator=generator)
        noise = torch.rand(200, generator=generator, dtype=torch.float64)
        for c in range(channels):
            assert torch.equal(draw(law, params, known, c, noise), law.draw(params, known, c, noise))


def test_known_symbols_are_kept_and_no_other_channel_is_touched():
    law, known = Categorical(2, 5), torch.randint(5, (50, 2), generator=torch.Generator().manual_seed(1))
    params, noise = torch.randn(50, 10, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    keep = torch.arange(50) % 3 == 0
    found = draw(law, params, known, 1, noise, keep)
    assert torch.equal(found, torch.where(keep, known[:, 1], law.draw(params, known, 1, noise)))


# --- columns -------------------------------------------------------------------------------------------------------------


def lines(*addresses):
    table = np.zeros((len(addresses), len(FIELDS)), np.int64)
    table[:, ADDRESSES[0]] = addresses
    return table


def unrolled(blocks):
    """The lines of all columns, one after the other."""
    found = []
    for block in blocks:
        for time in range(block.times):
            lines = block.table.copy()
            lines[:, ADDRESSES] += time * lines[:, JUMPS]
            lines[:, JUMPS] = 0
            found.append(lines)
    return np.concatenate(found)


@pytest.mark.parametrize(("period", "recorded"), [(1, 5), (2, 10), (4, 20), (16, 80)])
def test_columns_in_the_middle_follow_from_others(period, recorded):
    asked, width = [], 40 if period < 16 else 107

    def record(j):
        asked.append(j)
        edge = 5 if j in (0, width - 1) else 0
        return lines(*[1000 + 8 * j + edge] * (1 + j % period), 7)

    blocks = all_columns(record, width)
    asked_first = list(asked)
    assert np.array_equal(unrolled(blocks), np.concatenate([record(j) for j in range(width)]))
    assert len(asked_first) == len(set(asked_first))
    assert len(asked_first) <= recorded + 5
    for j in range(width):
        (block,) = [block for block in blocks if j in block.columns]
        begin, end, time = block.place(j)
        of_column = block.table[begin:end].copy()
        of_column[:, ADDRESSES] += time * of_column[:, JUMPS]
        assert np.array_equal(of_column[:, ADDRESSES], record(j)[:, ADDRESSES])


def test_columns_without_a_pattern_are_all_recorded():
    asked = []

    def record(j):
        asked.append(j)
        return lines(j * j)

    found = unrolled(all_columns(record, 30))
    assert found[:, ADDRESSES[0]].tolist() == [j * j for j in range(30)]
    assert sorted(asked) == list(range(30))


def test_columns_that_ask_for_something_else_at_the_right_are_all_recorded():
    found = unrolled(all_columns(lambda j: lines(8 * j + (j > 20)), 30))
    assert found[:, ADDRESSES[0]].tolist() == [8 * j + (j > 20) for j in range(30)]


def test_columns_without_a_pattern_are_refused_before_they_fill_the_memory():
    with pytest.raises(NotRecordableError, match="columns without a pattern, 1048576 of them with 1 instructions each"):
        all_columns(lambda j: lines(j * j), 2**20)


def test_one_place_s_program_is_as_long_as_the_papers_say():
    model = tiny_model("gated-pixelcnn", (1, 8, 8), 2, blocks=3)
    x = torch.zeros(2, 1, 8, 8, dtype=torch.long)
    rows = RowPrograms(model, DrawJob(x, torch.zeros(x.shape, dtype=torch.float64), None, None, model.likelihood))
    (program,) = rows.steps.values()
    # Of each layer a product, the gate and a product; of the head twice a product; a draw.
    operations = unrolled(program.blocks)[:, 0]
    assert (operations == OPCODES["product"]).sum() == 8 * (3 * 2 + 2)
    assert math.isclose(len(operations) / 8, 3 * 3 + 8, abs_tol=2)
