"""Fixed-point sampling: how many sweeps it takes, that it ends where the scan does, and what it tells on the way."""

import pytest
import torch
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.fixed_point import _rows, as_places, fixed_point
from nextpixel.raster import Draw, Keep, raster

each_model = pytest.mark.parametrize("name", list(nextpixel.MODELS))


def by_sweeps(model, x, noise, progress=None, block=None):
    x = x.clone()
    return x, fixed_point(
        model, x, lambda rows: Draw(model.likelihood, as_places(noise[:, :, rows])), progress=progress, block=block
    )


def noise_like(x):
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@each_model
@pytest.mark.parametrize("channels", [1, 3])
def test_every_guess_ends_at_the_image_of_the_scan_in_at_most_as_many_sweeps_as_turns(name, channels):
    model = tiny_model(name, (channels, 4, 5))
    x = images(model, 3)
    noise = noise_like(x)
    scanned = raster(model, x.clone(), Draw(model.likelihood, noise))
    for guess in (x, torch.zeros_like(x), scanned):
        found, sweeps = by_sweeps(model, guess, noise)
        assert torch.equal(found, scanned)
        assert 1 <= sweeps <= channels * 20 + 1
    assert sweeps == 1  # from the image itself one sweep is enough to see that nothing changes


class Chain:
    """A law in which every place depends on the one before it, and on nothing else: the worst case."""

    likelihood = nextpixel.likelihoods.Categorical(1, 4)

    def order(self, height, width):
        return torch.arange(height * width).view(1, height, width)

    def encode(self, x):
        return x

    def network(self, x, h):
        before = torch.cat([torch.zeros_like(x[:, :, :1, 0]), x.flatten(1)[:, None, :-1]], 2).view(x.shape)[:, 0]
        return 1e3 * torch.nn.functional.one_hot((before + 1) % 4, 4).permute(0, 3, 1, 2).double()


def test_a_chain_needs_a_sweep_for_every_turn_and_rows_are_told_when_they_are_right_for_good():
    chain, x, rows = Chain(), torch.full((1, 1, 3, 4), 2), []
    found, sweeps = by_sweeps(chain, x, torch.full(x.shape, 0.5).double(), rows.append)
    assert found.flatten().tolist() == [1, 2, 3, 0] * 3
    assert sweeps == 13
    # Sweep k puts place k - 1 right, and changes all after it; the thirteenth changes nothing.
    assert rows == [k // 4 for k in range(1, 13)] + [3]


def test_a_row_is_right_when_all_its_channels_are():
    turns = torch.arange(8).view(2, 2, 2).permute(2, 0, 1)
    rows = []
    for turn in range(8):
        rows.append(_rows(turns == turn, turns))
    assert rows == [0, 0, 0, 1, 1, 1, 1, 2]


BLOCKS = [(name, block) for name in nextpixel.MODELS for block in (1, 2, 3, 4, 8, 100) if name != "multiscale"]


@pytest.mark.parametrize(("name", "block"), [(n, b) for n, b in BLOCKS if n != "pixelcnn++" or b % 4 == 0])
@pytest.mark.parametrize("condition", ["none", "labels", "spatial-map"])
def test_blocks_of_rows_end_at_the_image_of_the_scan(name, block, condition):
    model = tiny_model(name, (2, 9, 4), condition=condition)
    cond = random_cond(model, 3)
    how = {"cond": cond, "seed": 4}
    assert torch.equal(model.sample(3, method="fixed-point", block=block, **how), model.sample(3, method="cached", **how))
    x, known = images(model, 2), images(model, 2, seed=8) == 0
    how = {"cond": random_cond(model, 2), "seed": 4}
    swept = model.complete(x, known, 2, method="fixed-point", block=block, **how)
    assert torch.equal(swept, model.complete(x, known, 2, method="cached", **how))


def test_a_block_is_swept_until_it_is_right_and_then_the_next_one():
    chain, x, rows = Chain(), torch.full((1, 1, 3, 4), 2), []
    chain.strides, chain.row_kind, chain.name = (1,), lambda i: 0, "chain"
    found, sweeps = by_sweeps(chain, x, torch.full(x.shape, 0.5).double(), rows.append, block=2)
    assert found.flatten().tolist() == [1, 2, 3, 0] * 3
    assert sweeps == 9 + 5
    assert rows == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("pixelcnn++", 6, "in blocks of a multiple of 4, not of 6"),
        ("pixelcnn", 0, "in blocks of a multiple of 1, not of 0"),
        ("multiscale", 2, "of 2 passes is swept as a whole, not in blocks of 2 rows"),
    ],
)
def test_blocks_that_would_change_the_image_are_refused(name, block, message):
    with pytest.raises(InputError, match=message):
        tiny_model(name).sample(1, method="fixed-point", block=block)


def test_only_sweeps_have_blocks():
    with pytest.raises(InputError, match="block 2 is a setting of method 'fixed-point', not of 'cached'"):
        tiny_model("pixelcnn").sample(1, method="cached", block=2)


def test_independent_places_need_two_sweeps():
    model = tiny_model("pixelcnn", (1, 6, 6))
    with torch.no_grad():
        model.head.out.weight.zero_()
    x = images(model, 2)
    _, sweeps = by_sweeps(model, x, noise_like(x))
    assert sweeps == 2


def test_rounding_that_is_not_causal_is_told():
    chain = Chain()
    chain.network = lambda x, h: 1e3 * torch.nn.functional.one_hot((x[:, 0] + 1) % 4, 4).permute(0, 3, 1, 2).double()
    x = torch.zeros(1, 1, 2, 2, dtype=torch.long)
    with pytest.raises(RuntimeError, match="no fixed point after 5 sweeps of 2x2 places: rounding is not causal"):
        by_sweeps(chain, x, torch.full(x.shape, 0.5).double())


def test_known_places_stay():
    model = tiny_model("gated-pixelcnn", (3, 4, 4))
    x, noise = images(model, 2), noise_like(images(model, 2))
    known = images(model, 2, seed=11) == 0
    guess = torch.where(known, x, 0)
    swept = guess.clone()
    fixed_point(
        model, swept, lambda rows: Keep(as_places(known[:, :, rows]), Draw(model.likelihood, as_places(noise[:, :, rows])))
    )
    assert torch.equal(swept, raster(model, guess.clone(), Keep(known, Draw(model.likelihood, noise))))
    assert torch.equal(swept[known], x[known])


def test_groups_of_lanes_are_swept_one_after_the_other(monkeypatch):
    model = tiny_model("pixelcnn++", (3, 4, 4))
    whole, calls = model.sample(5, seed=2, method="fixed-point"), []
    monkeypatch.setattr("nextpixel.models.sampling.LANES", 2)
    assert torch.equal(whole, model.sample(5, seed=2, method="fixed-point", progress=calls.append))
    assert calls.count(4) >= 3  # each group ends with all of its rows


def test_the_command_line_tells_the_sweeps(tmp_path, capsys):
    tiny_model("pixelcnn", (1, 6, 6)).save(tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "-n", "3", "--out"]
    assert main([*command, str(tmp_path / "a.npy")]) == 0
    assert "sweeps" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "b.npy"), "--method", "fixed-point"]) == 0
    sweeps = int(capsys.readouterr().out.split(" sweeps")[0].split()[-1])
    assert 2 <= sweeps <= 37
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
