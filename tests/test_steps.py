"""The steps of a scan as programs: the same numbers as the scan's own, whatever the architecture, and for each image alone."""

import time
import warnings

import numpy as np
import pytest
import torch
from pairs import Some, pairs
from test_compiled import VARIANTS, LooksBack, Unusual
from tiny import CONDITIONS, FEW, images, random_cond, tiny_model

import nextpixel
from nextpixel.coding import lanes
from nextpixel.coding.lanes import LaneCoder
from nextpixel.compiled import sample
from nextpixel.compiled.sample import SharedProgress, cut, on_cores
from nextpixel.compiled.step_programs import Stepped
from nextpixel.likelihoods import LIKELIHOODS
from nextpixel.scan.raster import Score, raster

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def nats(scannable, model, x, h=None):
    """What each symbol costs, seen through `raster`."""
    score = Score(model.likelihood)
    assert torch.equal(raster(scannable, x.clone(), score, h), x)
    return score.nats


def assert_same(model, x, h=None):
    with torch.no_grad():
        torch.testing.assert_close(nats(Stepped(model), model, x, h), nats(model, model, x, h), atol=1e-10, rtol=0)


@pairs(name=nextpixel.MODELS, likelihood=LIKELIHOODS, channels=[1, 3], size=[(5, 26), (9, 7), (1, 8), (6, 1)])
def test_steps_are_those_of_the_scan(name, likelihood, channels, size):
    model = tiny_model(name, (channels, 4, 5), 5, likelihood=likelihood)
    assert_same(model, images(model, 3, size))


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_of_every_variant(variant):
    name, arguments = VARIANTS[variant]
    model = tiny_model(name, (3, 8, 9), 17, **arguments)
    assert_same(model, images(model, 2))


@pairs(name=nextpixel.MODELS, condition=Some(FEW, [kind for kind in CONDITIONS if kind != "encoded"]))
def test_steps_under_every_condition(name, condition):
    model = tiny_model(name, (2, 4, 6), 3, condition)
    x = images(model, 3)
    with torch.no_grad():
        assert_same(model, x, model.encode_condition(random_cond(model, 3), 3, 4, 6))


@pairs(name=nextpixel.MODELS, likelihood=LIKELIHOODS, dtype=[torch.float32, torch.float64])
def test_an_image_s_numbers_do_not_depend_on_the_others(name, likelihood, dtype):
    """To the last bit, however many there are: a decoder may have one image where the encoder had many."""
    model = tiny_model(name, (3, 6, 7), 17, likelihood=likelihood).to(dtype)

    def params(x):
        found = []
        raster(Stepped(model), x.clone(), lambda params, x, i, j, c: found.append(params.clone()) or x[:, c, i, j])
        return torch.stack(found, 1)

    x = images(model, 21)
    whole = params(x)
    # But for what torch computes of a whole scale, for the next one.
    rounding = 1e-5 if name == "multiscale" and dtype == torch.float32 else 0
    for part in (slice(0, 1), slice(3, 5), slice(4, 15), slice(9, 21)):
        torch.testing.assert_close(params(x[part]), whole[part], atol=rounding, rtol=0)


# --- in the codec --------------------------------------------------------------------------------------------------------


@pytest.fixture
def scanned(monkeypatch):
    """What the codec has scanned, and how many images of each."""
    seen = []

    def note(scannable, x, *rest):
        seen.append((type(scannable), len(x)))
        return raster(scannable, x, *rest)

    for module in (lanes, sample):  # torch's steps, and programs
        monkeypatch.setattr(module, "raster", note)
    return seen


@pairs(name=nextpixel.MODELS, likelihood=LIKELIHOODS, mode=["float64", "fast"])
def test_the_codec_runs_programs_on_all_cores(name, likelihood, mode, scanned, monkeypatch):
    model = tiny_model(name, (2, 5, 6), 17, likelihood=likelihood)
    x, coder = images(model, 33), LaneCoder(model, mode, lanes=40)
    coder.measure(x)
    before = torch.get_num_threads()
    monkeypatch.setattr(lanes, "CORE_WORK", 1)
    with lanes.threads(3), warnings.catch_warnings():
        warnings.simplefilter("error")
        streams = coder.encode(x)
        assert torch.equal(coder.decode(streams, (5, 6)), x)
    assert torch.get_num_threads() == before
    width = 33 if mode == "float64" else 40
    assert sorted(scanned) == sorted([(Stepped, len(range(width)[piece])) for piece in cut(width, 3)] * 2, key=str)
    # What one thread wrote, and one image alone.
    if mode == "float64":
        with lanes.threads(1):
            assert coder.encode(x) == streams
        assert torch.equal(coder.decode(streams[7:8], (5, 6)), x[7:8])
        assert scanned[-1] == (Stepped, 1)


@pytest.mark.parametrize(("batch", "cores"), [(1, 1), (15, 1), (16, 2), (24, 3), (64, 3)])
def test_a_core_has_enough_to_do(batch, cores, scanned, monkeypatch):
    model = tiny_model("pixelcnn")
    coder, x = LaneCoder(model, "fast", lanes=batch), images(model, batch)
    with lanes.threads(3):
        coder.encode(x)  # a step of so few weights is not worth a second core
        assert len(scanned) == 1
        monkeypatch.setattr(lanes, "CORE_WORK", 8 * sum(p.numel() for p in model.parameters()))
        coder.encode(x)
    assert len(scanned) == 1 + cores


@pytest.mark.parametrize("kind", [Unusual, LooksBack])
def test_what_is_no_program_is_coded_step_by_step_and_says_so(kind, scanned):
    model = kind(shape=(1, 4, 5), levels=3, features=4, blocks=1).double().eval()
    x, coder = images(model, 3), LaneCoder(model)
    coder.measure(x)
    with pytest.warns(UserWarning, match="is coded step by step, because its scan is no program"):
        streams = coder.encode(x)
    with pytest.warns(UserWarning, match="is coded step by step"):
        assert torch.equal(coder.decode(streams, (4, 5)), x)
    assert [scannable for scannable, _ in scanned] == [Stepped, kind] * 2


def test_progress_counts_the_rows_of_all_images():
    for name in nextpixel.MODELS:
        model, seen = tiny_model(name, (1, 7, 6)), []
        coder = LaneCoder(model, "fast", lanes=24)
        coder.encode(images(model, 24, (7, 6)), progress=lambda *count: seen.append(count))  # noqa: B023
        rows = sum(-(-7 // stride) for stride in model.strides)
        assert seen == [(row, rows) for row in range(1, rows + 1)]


# --- pieces --------------------------------------------------------------------------------------------------------------


def test_pieces_are_the_whole_and_about_alike():
    for batch in range(1, 70):
        for pieces in range(1, 9):
            found = cut(batch, pieces)
            assert np.concatenate([np.arange(batch)[piece] for piece in found]).tolist() == list(range(batch))
            assert len(found) <= pieces
            assert len({piece.stop - piece.start for piece in found[:-1]}) <= 1


def test_an_error_on_a_core_comes_out_and_stops_the_others():
    before, report, rows = torch.get_num_threads(), SharedProgress(None, 2), []

    def fails():
        assert torch.get_num_threads() == 1
        raise KeyError("here")

    def goes_on():
        for row in range(10_000):
            time.sleep(0.01)
            rows.append(row)
            report(row, 10_000)

    with pytest.raises(KeyError, match="here"):
        on_cores([goes_on, fails], 2, report)
    assert len(rows) < 1000
    assert torch.get_num_threads() == before


def test_a_row_is_finished_when_all_pieces_have_finished_it():
    seen = []
    report = SharedProgress(lambda *count: seen.append(count), 3)
    for _ in range(7):
        report(1, 4)
    assert seen == [(1, 4), (2, 4)]
    SharedProgress(None, 3)(1, 4)
