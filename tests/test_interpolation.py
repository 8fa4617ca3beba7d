"""Interpolation: rows end at samples, keep their noise, and follow the path that was asked for, for every model and condition."""

import numpy as np
import pytest
import torch
from pairs import Some, pairs
from PIL import Image
from tiny import CONDITIONS, of_images, random_cond, tiny_model

import nextpixel
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.sampling import draw as sampling
from nextpixel.sampling.interpolate import linear, spherical

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)
PATHS = ["linear", "spherical"]


def ends_for(model, n):
    """Two conditions for each of n rows, far enough from each other to give other images; labels alone differ in every row."""
    a = random_cond(model, n, seed=5)
    b = of_images(random_cond(model, n, seed=6), lambda part: part if part.dtype == torch.long else 5 * part)
    return a, (a + 1) % 4 if isinstance(model.condition, nextpixel.Labels) else b


@pairs(name=nextpixel.MODELS, condition=Some(["labels", "spatial-map"], CONDITIONS[1:]), path=PATHS)
def test_the_ends_are_samples_with_the_same_noise(name, condition, path):
    model = tiny_model(name, condition=condition)
    a, b = ends_for(model, 16)
    rows = model.interpolate(a, b, steps=4, n=16, seed=7, path=path)
    assert rows.shape == (16, 4, *model.shape)
    assert rows.dtype == torch.uint8
    assert torch.equal(rows[:, 0], model.sample(16, a, seed=7))
    assert torch.equal(rows[:, -1], model.sample(16, b, seed=7))
    assert not torch.equal(rows[:, 0], rows[:, -1])
    two = model.interpolate(a, b, steps=2, n=16, seed=7, path=path)
    assert torch.equal(two, rows[:, [0, -1]])


@pairs(name=nextpixel.MODELS, condition=Some(["labels", "spatial-map"], CONDITIONS[1:]), path=PATHS)
def test_noise_is_fixed_along_a_row_and_another_in_the_next(name, condition, path):
    model = tiny_model(name, condition=condition)
    a = of_images(random_cond(model, 1), lambda part: part[0])
    rows = model.interpolate(a, a, steps=3, n=4, seed=7, path=path)
    assert torch.equal(rows, rows[:, :1].expand(-1, 3, -1, -1, -1))
    assert len(rows[:, 0].unique(dim=0)) > 1
    assert torch.equal(rows[:2], model.interpolate(a, a, steps=3, n=2, seed=7, path=path))
    assert not torch.equal(rows, model.interpolate(a, a, steps=3, n=4, seed=8, path=path))


@pairs(name=nextpixel.MODELS, path=PATHS, guidance=[0.0, 0.5, 3.0])
def test_the_ends_under_guidance_are_guided_samples(name, path, guidance):
    model = tiny_model(name, (3, 3, 4), condition="vector")
    a, b = ends_for(model, 8)
    rows = model.interpolate(a, b, steps=3, n=8, seed=7, path=path, guidance=guidance)
    assert torch.equal(rows[:, 0], model.sample(8, a, seed=7, guidance=guidance))
    assert torch.equal(rows[:, -1], model.sample(8, b, seed=7, guidance=guidance))
    assert torch.equal(rows[:, 0], rows[:, -1]) == (guidance == 0)
    assert not torch.equal(rows, model.interpolate(a, b, steps=3, n=8, seed=7, path=path))


@pytest.mark.parametrize("condition", ["vector", "spatial-map"])
@each_model
def test_between_the_ends_guidance_is_that_of_the_condition_between(name, condition):
    model = tiny_model(name, condition=condition)
    a, b = ends_for(model, 6)
    middle = model.interpolate(a, b, steps=5, n=6, seed=7, guidance=2.5)[:, 1]
    assert torch.equal(middle, model.sample(6, 0.75 * a + 0.25 * b, seed=7, guidance=2.5))
    assert torch.equal(middle, model.sample(6, 0.75 * a + 0.25 * b, seed=7, guidance=2.5, method="naive"))


@pytest.mark.parametrize("condition", ["vector", "spatial-map"])
@each_model
def test_between_the_ends_it_is_a_sample_under_the_condition_between(name, condition):
    model = tiny_model(name, condition=condition)
    a, b = ends_for(model, 3)
    middle = model.interpolate(a, b, steps=5, n=3, seed=7)[:, 1]
    assert torch.equal(middle, model.sample(3, 0.75 * a + 0.25 * b, seed=7))
    length_a, length_b = (c.flatten(1).norm(dim=1).view(-1, *[1] * (c.dim() - 1)) for c in (a, b))
    half = a / length_a + b / length_b
    half = half / half.flatten(1).norm(dim=1).view_as(length_a) * (length_a + length_b) / 2
    middle = model.interpolate(a, b, steps=3, n=3, seed=7, path="spherical")[:, 1]
    assert torch.equal(middle, model.sample(3, half, seed=7))


def test_rows_are_scanned_in_lanes_as_a_whole(monkeypatch):
    model = tiny_model("gated-pixelcnn", condition="vector")
    a, b = ends_for(model, 3)
    whole, reports = model.interpolate(a, b, steps=4, n=3), []
    monkeypatch.setattr(sampling, "SCAN_BATCH", 5)
    assert torch.equal(whole, model.interpolate(a, b, steps=4, n=3, progress=lambda done, total: reports.append((done, total))))
    rows = model.scan_rows(12)
    assert reports == [(row, rows) for row in range(1, rows + 1)]
    guided = model.interpolate(a, b, steps=4, n=3, guidance=2.0)
    monkeypatch.setattr(sampling, "SCAN_BATCH", 256)
    assert torch.equal(guided, model.interpolate(a, b, steps=4, n=3, guidance=2.0))


def test_size_and_temperature_are_those_of_sample():
    model = tiny_model("gated-pixelcnn", condition="labels")
    rows = model.interpolate(0, 1, steps=3, n=2, seed=1, temperature=0.5, size=(5, 2))
    assert torch.equal(rows[:, 2], model.sample(2, 1, seed=1, temperature=0.5, size=(5, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spherical_path_turns_evenly_while_its_norm_changes_linearly(dtype):
    a, b = (torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(k), dtype=dtype) for k in (0, 1))
    h = spherical(a, 3 * b, 7)
    assert h.dtype == dtype
    assert torch.equal(h[:, 0], a)
    assert torch.equal(h[:, -1], 3 * b)
    flat = h.flatten(2).double()
    norms = flat.norm(dim=2)
    torch.testing.assert_close(norms.diff(dim=1), (norms[:, -1:] - norms[:, :1]).expand(-1, 6) / 6, rtol=1e-5, atol=1e-5)
    unit = flat / norms[..., None]
    angles = (unit[:, 1:] * unit[:, :-1]).sum(2).acos()
    whole = (unit[:, 0] * unit[:, -1]).sum(1).acos()
    torch.testing.assert_close(angles, (whole / 6)[:, None].expand(-1, 6), rtol=1e-4, atol=1e-5)
    assert (whole > 0.5).all()


def test_parallel_vectors_change_their_norm_alone_and_nearly_parallel_ones_stay_between():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(spherical(a, 3 * a, 5), linear(a, 3 * a, 5))
    for tiny in (1e-12, 1e-7, 1e-5):
        b = a + torch.tensor([0.0, tiny], dtype=torch.float64)
        torch.testing.assert_close(spherical(a, b, 5), linear(a, b, 5), rtol=0, atol=1e-9)


ZERO, ONE = torch.zeros(5), torch.ones(5)


@pytest.mark.parametrize(
    ("condition", "call", "message"),
    [
        ("none", lambda m: m.interpolate(0, 1), "takes no condition, so there is nothing to interpolate between"),
        ("labels", lambda m: m.interpolate(0, 1, steps=1), r"steps must be at least 2 \(the two ends\), not 1"),
        ("labels", lambda m: m.interpolate(0, 1, n=0), "n must be at least 1, not 0"),
        ("labels", lambda m: m.interpolate(0, 1, path="round"), "path must be 'linear' or 'spherical', not 'round'"),
        ("labels", lambda m: m.interpolate(0, 4), "labels must be from 0 to 3, not 4 to 4"),
        ("labels", lambda m: m.interpolate(0.5, 1), r"integer labels, not torch\.float32"),
        ("labels", lambda m: m.interpolate(None, 1), "needs a condition"),
        ("labels", lambda m: m.interpolate(0, 1, temperature=0), "temperature must be at least"),
        ("labels", lambda m: m.interpolate(0, 1, guidance=2e6), r"guidance must be from -1e\+06 to 1e\+06, not 2000000\.0"),
        ("vector", lambda m: m.interpolate(ZERO, torch.ones(4)), r"\(5,\) or \(4, 5\), not \(4,\)"),
        ("vector", lambda m: m.interpolate(ZERO, ONE, path="spherical"), "is the zero vector: give path 'linear'"),
        ("vector", lambda m: m.interpolate(ONE, -2 * ONE, path="spherical"), "between opposite vectors"),
    ],
)
def test_bad_input_is_named_in_one_line(condition, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tiny_model("gated-pixelcnn", condition=condition))
    assert "\n" not in str(error.value)


def test_zero_and_opposite_vectors_take_the_straight_path():
    model = tiny_model("gated-pixelcnn", condition="vector")
    assert torch.equal(model.interpolate(ZERO, ONE, steps=3, n=2)[:, 1], model.sample(2, ONE / 2))
    assert torch.equal(model.interpolate(ONE, -ONE, steps=3, n=2)[:, 1], model.sample(2, ZERO))


# --- the command line -----------------------------------------------------------------------------------------------------


def saved(folder, condition):
    tiny_model("gated-pixelcnn", condition=condition).save(folder / condition)
    return str(folder / condition)


def test_command(tmp_path, capsys):
    model = nextpixel.load(saved(tmp_path, "labels"))
    command = ["interpolate", str(tmp_path / "labels"), "--from", "1", "--to", "3", "--steps", "5", "-n", "2", "--seed", "4"]
    assert main([*command, "--path", "spherical", "-o", str(tmp_path / "grid.npy")]) == 0
    expected = model.interpolate(1, 3, 5, 2, seed=4, path="spherical").flatten(0, 1).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "grid.npy"), expected)
    assert main([*command, "-o", str(tmp_path / "grid.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'grid.npy'}\n{tmp_path / 'grid.png'}\n"
    width, height = Image.open(tmp_path / "grid.png").size
    assert width - 2 == 5 * (4 * 16 + 2)
    assert height - 2 == 2 * (3 * 16 + 2)


def test_command_with_vectors(tmp_path):
    model = nextpixel.load(saved(tmp_path, "vector"))
    a, b = np.random.default_rng(0).normal(size=(2, 5))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    ends = ["--from", str(tmp_path / "a.npy"), "--to", str(tmp_path / "b.npy"), "-o", str(tmp_path / "grid.npy")]
    assert main(["interpolate", str(tmp_path / "vector"), *ends]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "grid.npy"), model.interpolate(a, b).flatten(0, 1).numpy())


@pytest.mark.parametrize(
    ("condition", "options", "message"),
    [
        ("labels", "--from cat --to 3", "--from cat: no such file; expected a label (0, 1, ...), a picture file or a .npy file"),
        ("labels", "--from 1 --to -3", "--to -3: no such file; expected a label (0, 1, ...)"),
        ("labels", "--from 1 --to 4", "--to 4: expected a number from 0 to 3 (no class has a name)"),
        ("vector", "--from ones.npy --to missing.npy", "--to missing.npy: cannot be read as a .npy array: No such file"),
        ("vector", "--from ones.npy --to notes.npy", "--to notes.npy: cannot be read as a .npy array"),
        ("vector", "--from ones.npy --to nan.npy", "--to nan.npy holds float64: expected finite numbers"),
        ("labels", "--from 1", "missing: --to; nextpixel interpolate --help"),
        ("labels", "--from 1 --to 2 --steps 1", "steps must be at least 2"),
        ("labels", "--from 1 --to 2 --path round", "--path round: expected linear or spherical"),
        ("labels", "--from 1 --to 2 --out x.jpg", "--out x.jpg: expected a file that ends in .png or .npy"),
        ("vector", "--from ones.npy --to four.npy", "cond must be (5,) or (4, 5), not (4,)"),
        ("vector", "--from 1 --to 2", "--from 1: the model in vector is not class-conditional"),
        ("none", "--from 1 --to 2", "--from 1: the model in none is not class-conditional"),
        ("none", "--from ones.npy --to ones.npy", "takes no condition"),
    ],
)
def test_bad_commands(condition, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.npy").write_text("no array")
    np.save("nan.npy", np.full(5, np.nan))
    np.save("ones.npy", np.ones(5))
    np.save("four.npy", np.ones(4))
    saved(tmp_path, condition)
    assert main(["interpolate", condition, *options.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nextpixel: error: ")
    assert err.count("\n") == 1, err
    assert message in err
    assert not list(tmp_path.glob("*.png"))
