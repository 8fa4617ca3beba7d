"""Fixed-point sampling: how many sweeps it takes, that it ends where the scan does, and what it tells on the way."""

import pytest
import torch
from tiny import images, tiny_model

import nextpixel
from nextpixel.cli import main
from nextpixel.scan.fixed_point import _rows, as_places, fixed_point
from nextpixel.scan.raster import Draw, Keep, raster

each_model = pytest.mark.parametrize("name", list(nextpixel.MODELS))


def by_sweeps(model, x, noise, progress=None):
    x = x.clone()
    return x, fixed_point(model, x, Draw(model.likelihood, as_places(noise)), progress=progress)


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

    strides = (1,)
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
    found, sweeps = by_sweeps(chain, x, torch.full(x.shape, 0.5).double(), lambda *count: rows.append(count))
    assert found.flatten().tolist() == [1, 2, 3, 0] * 3
    assert sweeps == 13
    # Sweep k puts place k - 1 right, and changes all after it; the thirteenth changes nothing, and only it tells the last row.
    assert rows == [(k // 4, 3) for k in range(1, 12)] + [(2, 3), (3, 3)]


def test_a_row_is_right_when_all_its_channels_are():
    turns = torch.arange(8).view(2, 2, 2).permute(2, 0, 1)
    rows = []
    for turn in range(8):
        rows.append(_rows(turns == turn, turns, (1,)))
    assert rows == [0, 0, 0, 1, 1, 1, 1, 2]


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
    fixed_point(model, swept, Keep(as_places(known), Draw(model.likelihood, as_places(noise))))
    assert torch.equal(swept, raster(model, guess.clone(), Keep(known, Draw(model.likelihood, noise))))
    assert torch.equal(swept[known], x[known])


def test_groups_of_lanes_are_swept_one_after_the_other(monkeypatch):
    model = tiny_model("pixelcnn++", (3, 4, 4))
    whole, calls = model.sample(5, seed=2, method="fixed-point"), []
    monkeypatch.setattr("nextpixel.sampling.draw.SCAN_BATCH", 2)
    assert torch.equal(whole, model.sample(5, seed=2, method="fixed-point", progress=lambda *count: calls.append(count)))
    assert {(4, 12), (8, 12), (12, 12)} <= set(calls)  # each group ends with all of its rows


def test_the_command_line_tells_the_sweeps(tmp_path, capsys):
    tiny_model("pixelcnn", (1, 6, 6)).save(tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "-n", "3", "--out"]
    assert main([*command, str(tmp_path / "a.npy")]) == 0
    assert "sweeps" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "b.npy"), "--method", "fixed-point"]) == 0
    sweeps = int(capsys.readouterr().out.split(" sweeps")[0].split()[-1])
    assert 2 <= sweeps <= 37
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
