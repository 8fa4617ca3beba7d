"""Coding in the scan: exact tables, a coder that agrees with others of its format, streams that decode whatever the rounding."""

import math
from fractions import Fraction

import constriction
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import pairs
from slow_decoder import RangeDecoder
from tiny import CONDITIONS, images, random_cond, tiny_model

import nextpixel
from nextpixel.coding.entropy import choosers, kernels, margins, tables
from nextpixel.coding.entropy import range_coder as coder
from nextpixel.coding.entropy import tables as thresholds
from nextpixel.coding.entropy.choosers import DISTRIBUTIONS, Decode, Encode, Stream
from nextpixel.coding.entropy.margins import Perturbed
from nextpixel.coding.lanes import LaneCoder
from nextpixel.errors import InputError
from nextpixel.likelihoods import LIKELIHOODS, make_likelihood
from nextpixel.scan.raster import raster

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
any_bits = st.integers(tables.LEAST_BITS, tables.MOST_BITS)
quick = settings(deadline=None, max_examples=50)


def boundaries_ref(cdf: list[float], bits: int, digits: int, threshold: float = 0.5) -> list[int]:
    """The same in fractions, for one distribution."""
    levels, found = len(cdf), [0]
    for k, p in enumerate(cdf[:-1], start=1):
        side = Fraction(min(p, 1 - p))
        spacing = Fraction(1, 2**bits)
        while side >= spacing * 2**digits:
            spacing *= 2
        near = math.floor(side / spacing + 1 - Fraction(threshold)) * spacing
        found.append(k + round((1 - near if p > 0.5 else near) * (2**bits - levels)))
    return [*found, 2**bits]


def lane_coder(model, x, mode="float64", cond=None, lanes=8):
    """A coder that has measured its error bound, and the encoded condition."""
    coder = LaneCoder(model, mode, lanes)
    h = coder.condition(cond, len(x), *x.shape[2:])
    coder.measure(x, h)
    return coder, h


def bytes_of(streams):
    return np.array([len(payload) + len(thresholds) for payload, thresholds in streams])


# --- tables --------------------------------------------------------------------------------------------------------------

weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1)), min_size=2, max_size=40).filter(any)


@quick
@given(weights, any_bits, st.sampled_from([1e-5, 3e-8, None]))
def test_tables_are_those_of_exact_arithmetic(p, bits, epsilon):
    cdf = (np.cumsum(p) / np.sum(p))[None]
    digits = tables.table_digits(cdf.shape[1], epsilon)
    found = tables.boundaries(cdf, bits, digits)[0].tolist()
    assert found == boundaries_ref(cdf[0].tolist(), bits, digits)
    assert found[0] == 0
    assert found[-1] == 2**bits
    assert min(np.diff(found)) >= 1


@quick
@given(st.integers(0, 2**11), st.integers(0, 17), st.sampled_from([2, 3, 300]))
def test_tables_round_the_middle_to_even(odd, shift, levels):
    p = min((2 * odd + 1) / 2**12 / 2**shift, 1.0)
    for cdf in ([p] * (levels - 1) + [1.0], [1 - p] * (levels - 1) + [1.0]):
        assert tables.boundaries(np.array([cdf]), 17, 9)[0].tolist() == boundaries_ref(cdf, 17, 9)


def test_the_grid_is_no_finer_than_a_count():
    p = 2.5 * 2.0**-16
    n, spacing = tables.on_grid(np.array([p, 1 - p]), 7, 16)
    assert n.tolist() == [2.5, 2.5]
    assert spacing.tolist() == [2.0**-16, 2.0**-16]
    assert margins.free(np.array([p, 1 - p]), 7, 16, epsilon=1e-8).all(0).nonzero()[0].tolist() == [*range(8), *range(9, 16)]


@pytest.mark.parametrize("levels", [2, 256])
def test_tables_do_not_jump_where_the_spacing_changes(levels):
    """Just below and just above each power of two, and one half, P is rounded to it."""
    bits, digits = tables.table_bits(levels), tables.table_digits(levels, 1.0)
    for edge in (*(2.0**-e for e in range(1, bits)), *(1 - 2.0**-e for e in range(1, bits))):
        laws = np.ones((3, levels))
        laws[:, 0] = edge + np.array([-1e-12, 0, 1e-12])
        below, at, above = tables.boundaries(laws, bits, digits)[:, 1]
        assert below == at == above
        assert at == 1 + round(edge * (2**bits - levels))


@pytest.mark.parametrize(("epsilon", "loss"), [(1e-6, 0.004), (1e-8, 0.0005)])
@pytest.mark.parametrize("levels", [2, 17, 256, 257, 8192, 65536])
def test_tables_lose_little_rate(levels, epsilon, loss):
    logits = torch.randn(40, levels, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p = logits.softmax(1).numpy()
    bits = tables.table_bits(levels)
    coded = np.diff(tables.boundaries(p.cumsum(1), bits, tables.table_digits(levels, epsilon))) / 2**bits
    entropy = -(p * np.log2(p)).sum()
    assert entropy < -(p * np.log2(coded)).sum() < entropy * (1 + loss if levels <= 257 else 1.01 if levels <= 8192 else 1.015)


@each_likelihood
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_distribution_function_is_the_sum_of_the_law(likelihood, levels):
    law = make_likelihood(likelihood, 3, levels, mixtures=3)
    generator = torch.Generator().manual_seed(levels)
    params = torch.randn(5, law.params, generator=generator, dtype=torch.float64)
    known = torch.randint(levels, (5, 3), generator=generator)
    place = law.at(params)
    for c in range(3):
        cdf = place.cdf(known, c)
        torch.testing.assert_close(cdf, law.pmf(params, known, c).cumsum(1), atol=1e-12, rtol=0)
        # What the sampler draws at a symbol's share of the noise is that symbol.
        symbol = known[:, c]
        upper = cdf.gather(1, symbol[:, None]).squeeze(1)
        lower = torch.where(symbol > 0, cdf.gather(1, (symbol - 1).clamp(min=0)[:, None]).squeeze(1), 0)
        seen = upper - lower > 1e-9
        assert torch.equal(law.draw(params, known, c, (lower + upper) / 2)[seen], symbol[seen])


# --- laws, compiled ------------------------------------------------------------------------------------------------------


def law_and_params(likelihood, channels, levels, lanes=6, seed=0):
    """A law, and params whose components are sharp or flat, far outside or inside."""
    law = make_likelihood(likelihood, channels, levels, mixtures=3)
    generator = torch.Generator().manual_seed(seed)
    params = 3 * torch.randn(lanes, law.params, generator=generator, dtype=torch.float64)
    return law, params, torch.randint(levels, (lanes, channels), generator=generator)


@pytest.mark.parametrize("levels", [2, 17, 256, 8192, 65536])
def test_a_boundary_alone_is_that_of_the_table(levels):
    """At and beside many thresholds of each octave, on both sides of one half, and anywhere."""
    bits, digits, generator = tables.table_bits(levels), tables.table_digits(levels, 1.0), np.random.default_rng(0)
    n = generator.integers(2 ** (digits - 1), 2**digits, size=(bits, 16))
    middle = (n + thresholds.THRESHOLDS) / 2.0 ** (digits + 1 + np.arange(bits)[:, None])
    middle = np.concatenate([middle, 1 - middle])
    for p in np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 1), generator.random((9, 16))]).flat:
        cdf = np.append(np.full(levels - 1, p), 1.0)
        threshold = generator.choice(thresholds.THRESHOLDS)
        expected = tables.boundaries(cdf[None], bits, digits, threshold)[0]
        for k in (0, 1, levels // 2, levels - 1, levels):
            assert kernels.boundary(p, k, levels, bits, digits, threshold) == expected[k]


def test_a_boundary_is_within_the_table_whatever_the_network_says():
    for p in (np.nan, np.inf, -np.inf, -1e-17, 1 + 1e-15):
        assert 5 <= kernels.boundary(p, 5, 17, 16, 9, 0.5) <= 2**16 - 12


def whole_laws(laws, lanes, levels):
    """P(X <= k) for all symbols, from the ends of each."""
    ends = np.empty((levels, lanes, 2))
    for symbol in range(levels):
        laws.ends(np.full(lanes, symbol), ends[symbol])
    return ends[:, :, 1].T


@each_likelihood
@pytest.mark.parametrize("levels", [2, 3, 17, 256, 257])
def test_a_symbol_is_found_as_in_its_whole_table(likelihood, levels):
    bits, digits = tables.table_bits(levels), tables.table_digits(levels, 3e-8)
    for channels in (1, 3, 4):
        law, params, known = law_and_params(likelihood, channels, levels)
        place, laws = law.at(params), DISTRIBUTIONS[law.coding](law, bits, digits, len(params))
        for c in range(channels):
            cdf = place.cdf(known, c).numpy()
            laws.begin(params, known, c)
            rows, lanes = whole_laws(laws, len(params), levels), np.arange(len(params))
            np.testing.assert_allclose(rows, cdf, atol=1e-13, rtol=0)
            rounds_up_from = np.resize(thresholds.THRESHOLDS, len(params))
            pairs = zip(rows, rounds_up_from, strict=True)
            table = np.concatenate([tables.boundaries(row[None], bits, digits, start) for row, start in pairs])
            ends = np.empty((len(params), 2))
            for symbol in {0, 1, levels // 2, levels - 1}:
                laws.ends(np.full(len(params), symbol), ends)
                assert (ends[:, 1] == rows[:, symbol]).all()
                assert (ends[:, 0] == (rows[:, symbol - 1] if symbol else 0)).all()
                # At the first and the last quantile of the symbol's share.
                for quantiles in (table[:, symbol], table[:, symbol + 1] - 1):
                    symbols, shares = laws.find(quantiles, rounds_up_from)
                    assert (symbols == symbol).all()
                    assert (shares == table[lanes[:, None], symbol + np.arange(2)]).all()


@each_likelihood
def test_laws_are_of_the_newest_params_and_in_float64(likelihood):
    """A network with colour groups gives params for each channel, and fast mode gives them in float32."""
    law, first, known = law_and_params(likelihood, 2, 300)
    second = law_and_params(likelihood, 2, 300, seed=1)[1]
    laws = DISTRIBUTIONS[law.coding](law, 20, 13, len(known))
    newest = second if law.colours > 1 else first
    for c, params in enumerate((first, newest)):
        laws.begin(params.float(), known, c)
        expected = law.at(params.float().double()).cdf(known, c)
        np.testing.assert_allclose(whole_laws(laws, len(known), 300), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("symbol", [0, 16])
def test_a_symbol_is_found_where_its_neighbours_hang_by_a_hair(symbol, above):
    """Symbols 1 to 15 are all but impossible, so all of their boundaries are where symbol 16 begins, next to a threshold."""
    law, bits, digits = make_likelihood("categorical", 1, 17), tables.table_bits(17), tables.table_digits(17, 1e-8)
    middle, hair = (2 ** (digits - 1) + 44.5) / 2 ** (digits + 1), 1e-12
    mine = middle + (hair if above else -hair)
    here, elsewhere = (torch.tensor([[p, *[1e-30] * 15, 1 - p]], dtype=torch.float64).log() for p in (mine, 2 * middle - mine))
    encode, x = Encode(law, bits, 1e-8, images=1), torch.full((1, 1, 1, 1), symbol)
    encode(here, x, 0, 0, 0)
    (stream,) = encode.streams()
    threshold = thresholds.changes(stream.thresholds)[1][0]
    boundary = tables.boundaries(here.softmax(1).cumsum(1).numpy(), bits, digits, threshold)[0, 16 if symbol else 1]
    # The quantile of this symbol that is nearest to the other.
    quantile = boundary if symbol else boundary - 1
    encoder = coder.Encoder(bits)
    encoder.add([quantile], [quantile + 1])
    decode = Decode(law, bits, 1e-8, [Stream(encoder.payload(), stream.thresholds)])
    assert decode(elsewhere, x, 0, 0, 0).item() == symbol


# --- the range coder -----------------------------------------------------------------------------------------------------


@st.composite
def intervals(draw, bits):
    """Sequences of intervals, with many that are as small, as large, or as far to one side as can be."""
    top = 2**bits
    side = st.one_of(st.integers(0, top), st.sampled_from([0, 1, top // 2, top // 2 + 1, top - 1, top]))
    pairs = st.tuples(side, side).map(lambda ends: (min(ends), max(ends)))
    return draw(st.lists(pairs.filter(lambda ends: 0 < ends[1] - ends[0] < top), max_size=30))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_all_decoders_of_the_format_find_the_intervals(data):
    bits = data.draw(any_bits)
    lanes = [data.draw(intervals(bits)) for _ in range(data.draw(st.integers(1, 3)))]
    sides = [np.array(lane).reshape(-1, 2).T for lane in lanes]
    encoders = [coder.Encoder(bits) for _ in lanes]
    for encoder, pair in zip(encoders, sides, strict=True):
        for part in np.array_split(pair, data.draw(st.integers(1, 3)), axis=1):
            encoder.add(*part)
    payloads = [encoder.payload() for encoder in encoders]
    for payload, lane in zip(payloads, lanes, strict=True):
        assert not payload.endswith(b"\0")
        cost = -sum(np.log2((hi - lo) / 2**bits) for lo, hi in lane)
        assert 8 * len(payload) <= cost + 9
        slow, words = RangeDecoder(payload), np.frombuffer(payload + bytes(-len(payload) % 4), ">u4").astype(np.uint32)
        theirs = constriction.stream.queue.RangeDecoder(words)
        for lo, hi in lane:
            table = sorted({0, lo << 24 - bits, hi << 24 - bits, 2**24})
            symbol = table.index(lo << 24 - bits)
            assert slow.decode(table) == symbol
            law = constriction.stream.model.Categorical((np.diff(table) - 1).astype(np.float32), lazy=True)
            assert theirs.decode(law) == symbol
    # Side by side, as long as all have symbols.
    decoder = coder.LaneDecoder(payloads, bits)
    for turn in range(min(map(len, lanes))):
        shares, quantiles = np.array([lane[turn] for lane in lanes]), decoder.quantiles()
        assert ((shares[:, 0] <= quantiles) & (quantiles < shares[:, 1])).all()
        decoder.advance(shares)


@pytest.mark.parametrize("interval", [(5, 5), (6, 5), (-1, 3), (9, 2**16 + 1), (0, 2**16)])
def test_an_interval_that_no_decoder_could_find_is_not_encoded(interval):
    with pytest.raises(ValueError, match="some, but not all"):
        coder.Encoder(bits=16).add(np.array([0, interval[0]]), np.array([9, interval[1]]))


# --- round trips ---------------------------------------------------------------------------------------------------------


@pairs(
    name=nextpixel.MODELS,
    likelihood=LIKELIHOODS,
    sizes=[(1, 1, 1, 256), (1, 3, 5, 2), (3, 4, 3, 17)],
    mode=["float64", "fast"],
)
def test_round_trip_at_the_rate_of_the_likelihood(name, likelihood, sizes, mode):
    *shape, levels = sizes
    model = tiny_model(name, tuple(shape), levels, likelihood=likelihood)
    x = images(model, 5)
    lanes, _ = lane_coder(model, x, mode)
    streams = lanes.encode(x)
    assert torch.equal(lanes.decode(streams, shape[1:]), x)
    rate = -model.log_prob(x).detach().numpy() / np.log(2) / 8
    assert (bytes_of(streams) <= 1.005 * rate + 8).all()
    assert bytes_of(streams).sum() <= 1.005 * rate.sum() + 1.5 * len(x)
    assert (bytes_of(streams) >= rate - 1).all()


@pytest.mark.parametrize("condition", [kind for kind in CONDITIONS[1:] if kind != "encoded"])
@pytest.mark.parametrize("name", ["gated-pixelcnn", "multiscale"])
def test_round_trip_under_a_condition(name, condition):
    model = tiny_model(name, (1, 3, 4), condition=condition)
    x, cond = images(model, 3), random_cond(model, 3)
    lanes, h = lane_coder(model, x, cond=cond)
    streams = lanes.encode(x, h)
    assert torch.equal(lanes.decode(streams, (3, 4), h), x)
    assert not torch.equal(lanes.decode(streams, (3, 4), h.flip(0)), x)


@pytest.mark.parametrize("levels", [3, 300])
def test_round_trip_of_codes(levels):
    model = tiny_model("pixelcnn", (2, 3, 4), levels, inputs="embedding", embedding_features=3)
    x = images(model, 3)
    lanes, _ = lane_coder(model, x)
    assert torch.equal(lanes.decode(lanes.encode(x), (3, 4)), x)


@each_model
def test_the_encoder_runs_the_steps_of_the_decoder_and_no_forward_pass(name, monkeypatch):
    model = tiny_model(name)
    x = images(model)
    lanes, _ = lane_coder(model, x)
    for part in lanes.model.modules():
        if isinstance(part, nextpixel.AutoregressiveModel):
            monkeypatch.setattr(part, "network", lambda *_: pytest.fail("a forward pass"))
    assert torch.equal(lanes.decode(lanes.encode(x), x.shape[2:]), x)


def test_the_model_is_not_changed():
    model = tiny_model("pixelcnn").float().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lanes, _ = lane_coder(model, images(model))
    lanes.encode(images(model))
    assert {p.dtype for p in lanes.model.parameters()} == {torch.float64}
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_streams_do_not_hang_on_how_much_is_encoded_at_once(monkeypatch):
    model = tiny_model("pixelcnn", (2, 9, 9), 17)
    x = images(model, 8)
    lanes = LaneCoder(model, epsilon=2.0**-14)
    for lengths in (thresholds.LENGTHS, np.array([1, 2, 4, 8, 16, 32])):
        monkeypatch.setattr(choosers, "LONGEST", lengths[-1])
        monkeypatch.setattr(thresholds, "LONGEST", lengths[-1])
        monkeypatch.setattr(thresholds, "LENGTHS", lengths)
        streams = lanes.encode(x)
        assert min(len(stream.thresholds) for stream in streams) > 2
        for at_once in (1, 7, 50):
            monkeypatch.setattr(choosers, "AT_ONCE", at_once)
            assert lanes.encode(x) == streams
        assert torch.equal(lanes.decode(streams, (9, 9)), x)


@each_model
def test_streams_do_not_hang_on_neighbours(name):
    model = tiny_model(name, (1, 3, 4))
    x = images(model, 5)
    lanes, _ = lane_coder(model, x)
    streams = lanes.encode(x)
    assert lanes.encode(x.flip(0))[::-1] == streams
    assert [lanes.encode(one[None])[0] for one in x] == streams
    assert torch.equal(lanes.decode(streams[2:3], (3, 4)), x[2:3])


def test_streams_do_not_hang_on_threads():
    model = tiny_model("gated-pixelcnn", (1, 4, 4), features=32)
    x = images(model, 64)
    lanes, _ = lane_coder(model, x)
    streams = lanes.encode(x)
    torch.set_num_threads(2)
    try:
        assert lanes.encode(x) == streams
        assert torch.equal(lanes.decode(streams, (4, 4)), x)
    finally:
        torch.set_num_threads(1)


def test_fast_groups_always_have_the_same_width(monkeypatch):
    model = tiny_model("pixelcnn")
    x, widths = images(model, 3), []
    lanes, _ = lane_coder(model, x, "fast", lanes=4)
    start = lanes.model.start
    monkeypatch.setattr(lanes.model, "start", lambda batch, *rest: widths.append(batch) or start(batch, *rest))
    streams = lanes.encode(x)
    assert torch.equal(lanes.decode(streams, (3, 4)), x)
    assert widths == [4, 4]
    assert lanes.model.start(1, None, (3, 4)) is not None
    assert next(lanes.model.parameters()).dtype == torch.float32


def test_what_cannot_be_coded_is_refused():
    model = tiny_model("pixelcnn")
    with pytest.raises(InputError, match="with an encoder cannot compress"):
        LaneCoder(tiny_model("pixelcnn", condition="encoded"))
    with pytest.raises(InputError, match="not Linear"):
        LaneCoder(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="mode must be 'float64' or 'fast', not 'float16'"):
        LaneCoder(model, "float16")
    with pytest.raises(InputError, match="lanes must be from 1 to 4096, not 0"):
        LaneCoder(model, lanes=0)
    with pytest.raises(ValueError, match="measure"):
        LaneCoder(model).encode(images(model))
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="weights are all finite"):
        LaneCoder(model, "fast")


# --- margins -------------------------------------------------------------------------------------------------------------


class OnAnotherMachine:
    """A model whose steps compute under noise, as `raster` sees it."""

    def __init__(self, model, noise, seed=0):
        self.model, self.likelihood, self.strides, self.noise = model, model.likelihood, model.strides, Perturbed(noise, seed)

    def parts(self, x, h=None):
        with self.noise:
            parts = list(self.model.parts(x, h)) if len(self.strides) == 1 else self.model.parts(x, h)
        for part, part_h in parts:
            yield _NoisyPart(part, self.noise), part_h


class _NoisyPart:
    def __init__(self, part, noise):
        self.part, self.noise = part, noise

    def __getattr__(self, name):
        def method(*args):
            with self.noise:
                return getattr(self.part, name)(*args)

        return method


def decode_elsewhere(lanes, streams, size, noise, seed=0):
    x = torch.zeros(len(streams), lanes.model.shape[0], *size, dtype=torch.long)
    choose = Decode(lanes.model.likelihood, lanes.bits, lanes.epsilon, streams)
    return raster(OnAnotherMachine(lanes.model, noise, seed), x, choose)


@each_likelihood
@each_model
def test_archives_decode_where_every_operation_is_wrong_by_1e_10(name, likelihood):
    model = tiny_model(name, (2, 4, 3), 17, likelihood=likelihood)
    x = images(model, 4)
    lanes, _ = lane_coder(model, x)
    assert torch.equal(decode_elsewhere(lanes, lanes.encode(x), (4, 3), 1e-10), x)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_thresholds_are_what_makes_that_so(likelihood):
    """The same with noise so large that tables do differ."""
    model, noise = tiny_model("gated-pixelcnn", (1, 6, 6), 17, likelihood=likelihood), 5e-7
    x = images(model, 128)
    lanes = LaneCoder(model)
    lanes.epsilon = margins.measured_epsilon(lanes.model, x, None, lanes.bits, noise)
    streams = lanes.encode(x)
    assert torch.equal(lanes.decode(streams, (6, 6)), x)
    assert torch.equal(decode_elsewhere(lanes, streams, (6, 6), noise), x)
    lanes.epsilon = 1e-12
    bare = lanes.encode(x)
    assert not any(stream.thresholds for stream in bare)
    assert torch.equal(lanes.decode(bare, (6, 6)), x)
    assert not torch.equal(decode_elsewhere(lanes, bare, (6, 6), noise), x)


def test_noise_reaches_every_operation_but_views():
    with Perturbed(1e-3):
        x = torch.zeros(1000, dtype=torch.float64)
        x.add_(1)
        once = x.clone()
        view = x.view(10, 100)[2:3].t()
        y = torch.empty(1000, dtype=torch.float64)
        torch.mul(x, 1, out=y)
        whole = torch.arange(5)
    assert torch.equal(view, x.view(10, 100)[2:3].t())
    assert torch.equal(whole, torch.arange(5))
    for tensor in (x, y / x, once / x):
        assert 0.8e-3 < float((tensor - 1).std()) < 1.2e-3


def test_a_model_that_magnifies_errors_too_much_is_refused():
    model = tiny_model("pixelcnn")
    with pytest.raises(InputError, match=r"turns noise of 0\.1 into errors"):
        margins.measured_epsilon(model, images(model), None, 16, noise=0.1)


free_thresholds = st.builds(
    lambda turns, seed, density: np.random.default_rng(seed).random((turns, 16)) >= density,
    st.integers(1, 300),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
).map(lambda free: free | ~free.any(1, keepdims=True))


@quick
@given(free_thresholds, st.integers(1, 300))
def test_runs_take_only_thresholds_that_are_free(free, known):
    """Whatever is known at once; and they come back from their bytes."""
    runs, chosen = thresholds.Runs(), np.array([], dtype=np.int64)
    while len(chosen) < len(free):
        end = min(len(chosen) + known, len(free))
        known += 300  # as a buffer that has to grow until something can be chosen
        chosen = np.append(chosen, runs.extend(free[len(chosen) : end], whole=end == len(free)))
    assert free[np.arange(len(free)), chosen].all()
    unpacked = np.full(len(free), thresholds.THRESHOLDS[thresholds.USUAL])
    for turn, threshold in zip(*thresholds.changes(runs.pack()), strict=True):
        unpacked[turn:] = threshold
    assert (unpacked == thresholds.THRESHOLDS[chosen]).all()


def test_runs_are_as_long_as_they_can_be():
    free = np.zeros((10_000, 16), dtype=bool)
    free[:, 8] = True
    free[5_000] = np.arange(16) == 9
    runs = thresholds.Runs()
    assert (runs.extend(free, whole=True) == np.where(np.arange(10_000) == 5_000, 9, 8)).all()
    assert [int(thresholds.LENGTHS[run >> 4]) for run in runs.pack()] == [4096, 512, 384, 8, 1]
    assert not thresholds.Runs().extend(np.ones((thresholds.LONGEST - 1, 16), dtype=bool), whole=False).size


@pytest.mark.parametrize("hanging", [0, 1, 3, 18, 100])
def test_a_run_is_worth_two_turns_that_hang(hanging):
    """Of 3072, for each threshold others: so much an image costs beyond its payload."""
    sizes = []
    for seed in range(20):
        runs, free = thresholds.Runs(), np.ones((3072, 16), dtype=bool)
        for threshold in range(16):
            free[np.random.default_rng((seed, threshold)).choice(3072, hanging, replace=False), threshold] = False
        runs.extend(free, whole=True)
        sizes.append(len(runs.pack()))
    assert np.mean(sizes) <= 0.5 * hanging + 1
    assert hanging or not any(sizes)


def test_no_list_says_what_holds_anyway():
    runs = thresholds.Runs()
    assert (runs.extend(np.ones((10_000, 16), dtype=bool), whole=True) == thresholds.USUAL).all()
    assert runs.pack() == b""
    assert [len(found) for found in thresholds.changes(b"")] == [0, 0]


def test_a_turn_that_may_have_no_threshold_is_refused():
    with pytest.raises(InputError, match="no archive of these images is portable"):
        thresholds.Runs().extend(np.zeros((3, 16), dtype=bool), whole=True)
    model = tiny_model("pixelcnn")
    with pytest.raises(InputError, match="no archive of these images is portable"):
        LaneCoder(model, epsilon=0.5).encode(images(model))


def test_two_boundaries_within_the_largest_error_never_block_all_thresholds():
    """Of the largest P that the bound of `measured_epsilon` is compared at, at every pair of fractions."""
    levels, bits = 256, 20
    smallest = 2.0 ** (tables.table_digits(levels, 1.0) - bits)
    epsilon = margins.MOST_ERROR / (margins.error_form(np.array(smallest)) * 2.0**bits)
    fractions = (np.arange(0, 1, 1 / 64) + 1e-9) * 2.0**-bits
    one = margins.free(smallest + fractions, tables.table_digits(levels, 1.0), bits, epsilon)
    assert (one[:, None] & one[None]).any(2).all()
    assert one.sum(1).min() >= 11


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from([2.0**-30, 2.0**-20, 2.0**-13]))
def test_an_error_within_the_bound_moves_no_boundary(data, epsilon):
    """The encoder's P, often beside a threshold between two points, and a decoder's that is wrong by up to the bound."""
    p, error, beside = data.draw(st.floats(0, 1)), data.draw(st.floats(-1, 1)), data.draw(st.floats(-1, 1))
    n, spacing = (float(value) for value in tables.on_grid(np.array(p), 7, 16))
    fraction = data.draw(st.sampled_from(thresholds.THRESHOLDS.tolist()))
    middle = (int(n) + fraction) * spacing + beside * epsilon * float(margins.error_form(np.array(p)))
    for mine in (p, middle, 1 - middle):
        bound = epsilon * float(margins.error_form(np.array(mine)))
        theirs = min(max(mine + 0.99 * error * bound, 0.0), 1.0)
        for threshold in thresholds.THRESHOLDS[margins.free(np.array(mine), 7, 16, epsilon)]:
            encoded = boundaries_ref([mine, 1.0], 16, 7, threshold)[1]
            assert boundaries_ref([theirs, 1.0], 16, 7, threshold)[1] == encoded


def test_encode_leaves_the_usual_threshold_only_for_boundaries_that_hang_by_a_hair():
    law = make_likelihood("categorical", 1, 2)
    for shift, flagged in ((0.0, True), (0.1, False)):
        p = (612.5 + shift) / 2048  # of 10 digits
        logit = torch.tensor([[np.log((1 - p) / p)]])
        choose = Encode(law, 16, 1e-8, images=1)
        x = torch.zeros(1, 1, 1, 1, dtype=torch.long)
        choose(logit, x, 0, 0, 0)
        (stream,) = choose.streams()
        assert bool(stream.thresholds) == flagged


def test_what_is_no_probability_is_refused():
    choose, x = Encode(make_likelihood("categorical", 1, 2), 16, 1e-8, images=1), torch.zeros(1, 1, 1, 1, dtype=torch.long)
    choose(torch.tensor([[torch.nan]]), x, 0, 0, 0)
    with pytest.raises(InputError, match="gives no probabilities"):
        choose.streams()


@pytest.mark.parametrize("mode", ["float64", "fast"])
def test_images_of_65536_levels_come_back_and_all_methods_draw_the_same(mode):
    import nextpixel

    torch.manual_seed(0)
    model = nextpixel.GatedPixelCNN(
        (1, 6, 6), levels=65536, features=4, blocks=1, likelihood="logistic-mixture", mixtures=3
    ).eval()
    x = torch.randint(65536, (4, 1, 6, 6))
    x[0, 0, 0, :4] = torch.tensor([0, 32767, 32768, 65535])  # beside the limits of 16 bits, with and without a sign
    data = nextpixel.compress(model, x, mode=mode)
    assert torch.equal(nextpixel.decompress(model, data), x)
    coded, plain = len(data), len(nextpixel.compress(model, x[:1], mode=mode))
    bits = model.bits_per_dim(x[1:]).sum().item() * 36
    assert (coded - plain) * 8 < bits * 1.02 + 3 * 200
    drawn = [model.double().sample(3, method=method) for method in ("cached", "naive", "fixed-point", "compiled")]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    assert drawn[0].max() > 256
