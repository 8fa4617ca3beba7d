"""Codes without order, from an archive through training to sampled codes: their law is known, and no number is read into them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import nextpixel
from nextpixel.cli import main
from nextpixel.data.arrays import save_symbols
from nextpixel.data.images import Images
from nextpixel.data.raw import RawImages
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load_source
from nextpixel.pictures.grid import LINE, SEPARATOR, code_colours, save_completions, save_grid
from nextpixel.recipes import read_experiment
from nextpixel.scoring.baselines import PixelMarginal, all_baselines
from nextpixel.scoring.evaluation import evaluate

K, H, W, SLIP = 6, 4, 5, 0.1
TINY = (
    "--model.features 16 --model.blocks 1 --model.head_features 32 --model.embedding_features 8 --training.batch_size 16 "
    "--training.epochs 9 --training.eval_every 3 --training.sample_every 3 --training.lr 0.01 --training.warmup 5 "
    "--training.ema 0.9"
)
# Bits per code, given the label: the first of a row is any, each other one follows its left neighbour but for slips.
ENTROPY = (math.log2(K) + (W - 1) * -(SLIP * math.log2(SLIP) + (1 - SLIP) * math.log2(1 - SLIP))) / W


def walks(number, names, seed):
    """Codes (N, 1, H, W) and labels: rows walk around a circle of K codes, up for label 1, down for 0, or, by a slip, stay."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=number)
    turn = rng.random((number, 1, H, W)) >= SLIP
    turn = turn * (2 * labels - 1)[:, None, None, None]
    turn[..., 0] = rng.integers(K, size=turn.shape[:-1])
    return names[turn.cumsum(-1) % K], labels


NAMES = np.random.default_rng(0).permutation(K)  # which code is which place of the circle: their numbers tell nothing


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Splits with labels, and the size of the codebook."""
    path = tmp_path_factory.mktemp("codes") / "codes.npz"
    named = {"levels": np.array(K)}
    for seed, (split, number) in enumerate({"train": 400, "validation": 60, "test": 200}.items()):
        named[split], named[f"{split}_labels"] = walks(number, NAMES, seed)
    np.savez(path, **named)
    return path


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "prior"
    command = f"train vq-prior --data {archive} --data.levels {K} --model.condition labels {TINY} --out {out}"
    assert main(command.split()) == 0
    return out


def test_a_prior_learns_the_law_of_its_codes_and_says_what_it_beats(run, archive):
    settings = read_experiment(run / "config.yaml").data
    test = Images(load_source(str(archive), settings)["test"], settings)
    bits = evaluate(nextpixel.load(run), test).bits_per_dim
    assert ENTROPY - 0.05 < bits < ENTROPY + 0.25
    assert PixelMarginal.load(run / "marginal.npz", test.shape, K).bits_per_dim(test) > math.log2(K) - 0.02 > bits + 1
    report = (run / "report.md").read_text()
    assert f"values taken as given ({K} levels)" in report
    assert "| PNG, WebP, JPEG XL | n/a | n/a | not for codes" in report
    assert "a file per image" not in report
    assert "Each code has a colour of its own" in report
    for name in ("samples", "completions", "epoch-0003"):
        drawn = np.asarray(Image.open(run / "samples" / f"{name}.png"))
        assert (drawn == code_colours(K)[0]).all(axis=-1).any()


def follows(codes, labels):
    """Share of steps that go as the label says."""
    place = np.argsort(NAMES)[codes]
    return float(((np.diff(place, axis=-1) - (2 * labels - 1)[:, None, None, None]) % K == 0).mean())


def test_samples_are_codes_again(run, tmp_path, capsys):
    out = tmp_path / "codes.npz"
    assert main(["sample", str(run), "-n", "60", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with np.load(out) as made:
        assert set(made.files) == {"codes", "labels", "class_names", "levels"}
        codes, labels, levels = made["codes"], made["labels"], made["levels"]
    assert (codes.shape, codes.dtype, int(levels)) == ((60, 1, H, W), np.uint8, K)
    assert labels.tolist() == [0, 1] * 30
    assert follows(codes, labels) > 0.75
    part = load_source(str(out), DataSettings(levels=K))["all"]
    np.testing.assert_array_equal(part.images, codes)
    np.testing.assert_array_equal(part.labels, labels)
    assert main(["sample", str(run), "-n", "3", "--label", "1", "--force", "--out", str(out)]) == 0
    assert np.load(out)["labels"].tolist() == [1, 1, 1]
    assert main(["sample", str(run), "-n", "60", "--out", str(tmp_path / "codes.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), codes)


def test_completions_are_codes_again(run, tmp_path):
    codes, labels = walks(20, NAMES, seed=9)
    save_symbols(codes, tmp_path / "given.npz", K, True, labels)
    given = ["complete", str(run), "--image", str(tmp_path / "given.npz"), "--known", "left:0.4", "-n", "3"]
    assert main([*given, "--out", str(tmp_path / "made.npz")]) == 0
    made = np.load(tmp_path / "made.npz")
    assert made["labels"].tolist() == labels.repeat(3).tolist()
    np.testing.assert_array_equal(made["codes"][..., :2], codes.repeat(3, 0)[..., :2])
    assert follows(made["codes"], made["labels"]) > 0.75
    assert main([*given, "--label", "0", "--out", str(tmp_path / "zero.npz")]) == 0
    zero = np.load(tmp_path / "zero.npz")
    assert zero["labels"].tolist() == [0] * 60
    assert follows(zero["codes"][..., 2:], zero["labels"]) > 0.75
    assert main([*given, "--out", str(tmp_path / "made.png")]) == 0
    assert Image.open(tmp_path / "made.png").size[0] > 5 * 64


def test_evaluate_prints_no_image_format(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert "pixel marginal" in out
    assert "PNG, WebP, JPEG XL" in out


def test_several_codebooks_and_many_codes(tmp_path):
    np.save(tmp_path / "codes.npy", np.random.default_rng(0).integers(600, size=(300, 2, 3, 4)))
    command = (
        f"train vq-prior --data {tmp_path / 'codes.npy'} --data.levels 600 --data.layout NCHW --out {tmp_path / 'run'} {TINY}"
    )
    once = "--training.epochs 1 --training.eval_every 1 --training.sample_every 0"
    assert main(f"{command} {once}".split()) == 0
    assert main(["sample", str(tmp_path / "run"), "-n", "5", "--out", str(tmp_path / "made.npz")]) == 0
    made = np.load(tmp_path / "made.npz")
    assert set(made.files) == {"codes", "levels"}
    assert (made["codes"].shape, made["codes"].dtype) == ((5, 2, 3, 4), np.uint16)
    assert made["codes"].max() > 255


def bits_after_training(names, steps=120):
    """What a small model with embeddings reaches on walks whose codes are named like this, label unknown."""
    torch.manual_seed(0)
    model = nextpixel.GatedPixelCNN((1, H, W), levels=K, features=16, blocks=1, inputs="embedding", embedding_features=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.from_numpy(walks(512, names, seed=1)[0])
    for step in range(steps):
        optimiser.zero_grad()
        model.bits_per_dim(x[step % 8 * 64 :][:64]).mean().backward()
        optimiser.step()
    with torch.no_grad():
        return float(model.bits_per_dim(torch.from_numpy(walks(200, names, seed=2)[0])).mean())


def test_what_the_codes_are_called_changes_nothing():
    in_order, renamed = bits_after_training(np.arange(K)), bits_after_training(NAMES)
    assert max(in_order, renamed) < math.log2(K) - 0.8
    assert abs(in_order - renamed) < 0.15


def test_renaming_is_a_permutation_of_weights():
    names = torch.from_numpy(NAMES)
    model, other = small(), small()
    x = torch.from_numpy(walks(7, np.arange(K), seed=3)[0])
    with torch.no_grad():
        other.encode.table.weight[names] = model.encode.table.weight
        for mine, theirs in zip(other.head.out.parameters(), model.head.out.parameters(), strict=True):
            mine[names] = theirs
    torch.testing.assert_close(other.log_prob(names[x]), model.log_prob(x))
    assert (other.log_prob(x) - model.log_prob(x)).abs().max() > 0.01


def small():
    torch.manual_seed(0)
    sizes = {"features": 8, "blocks": 1, "embedding_features": 4}
    return nextpixel.GatedPixelCNN((1, H, W), levels=K, inputs="embedding", **sizes).double()


# --- pictures and baselines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "apart"), [(2, 100), (8, 60), (64, 20), (512, 9)])
def test_colours_are_apart_and_neighbours_not_alike(levels, apart):
    colours = code_colours(levels).astype(int)
    distance = np.sqrt(((colours[:, None] - colours) ** 2).sum(-1))
    assert distance[~np.eye(levels, dtype=bool)].min() > apart
    assert np.diagonal(distance, 1).min() > 80
    assert (colours.max(1) - colours.min(1)).min() > 40  # no grey, which is for what is hidden


def test_even_8192_codes_have_their_own_colours():
    assert len(np.unique(code_colours(8192), axis=0)) == 8192


def test_three_codebooks_are_no_red_green_and_blue(tmp_path):
    x = np.random.default_rng(0).integers(K, size=(2, 3, 4, 5))
    save_grid(x, K, tmp_path / "grid.png", columns=1, scale=1, codes=True)
    drawn = np.asarray(Image.open(tmp_path / "grid.png"))
    tile = drawn[LINE : LINE + 4, LINE : LINE + 15]
    np.testing.assert_array_equal(tile, code_colours(K)[np.concatenate(list(x[0]), axis=1)])


def test_the_hidden_part_of_codes_is_grey(tmp_path):
    x, known = np.random.default_rng(0).integers(K, size=(1, 3, 4, 5)), np.zeros((3, 4, 5), dtype=bool)
    known[1, :2] = True  # of one codebook only
    save_completions(x, known, x[:, None], K, tmp_path / "rows.png", scale=1, codes=True)
    drawn = np.asarray(Image.open(tmp_path / "rows.png"))[LINE : LINE + 4, 2 * LINE + 15 :][:, :15]
    grey = (drawn == SEPARATOR).all(axis=-1)
    np.testing.assert_array_equal(~grey, np.concatenate(list(known), axis=1))


def test_baselines_of_codes():
    codes, _ = walks(30, NAMES, seed=4)
    settings = DataSettings(levels=K)
    images = Images(RawImages(codes, None, None, K), settings)
    lines = all_baselines(PixelMarginal.fit(images), images, codes=True)
    assert [line.name for line in lines] == ["uniform", "pixel marginal", "PNG, WebP, JPEG XL"]
    assert [line.bits_per_dim is None for line in lines] == [False, False, True]


# --- bad input ------------------------------------------------------------------------------------------------------------

GOOD = np.zeros((30, 4, 5), dtype=np.int64)  # no two alike, so that a hash of their pixels divides them
GOOD[:, -1, 0], GOOD[:, -1, 1] = np.arange(30) // 6, np.arange(30) % 6


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        (
            {"codes": GOOD + 6},
            "",
            "value 6 in codes.npz (image 0, channel 0, row 0, column 0): expected 0 to 5 (--data",
        ),
        ({"codes": GOOD - 1}, "", "value -1 in codes.npz (image 0, channel 0, row 0, column 0): expected 0 to 5"),
        ({"codes": GOOD + 0.5}, "", "codes.npz (codes) holds float64: expected integers"),
        ({"codes": GOOD.reshape(30, 20)}, "", "codes.npz (codes) has the shape (30, 20): expected (N, H, W), (N, C, H, W)"),
        ({"codes": GOOD, "labels": np.zeros(29, int)}, "", "codes.npz (labels) are int64 of shape (29,): expected 30 integers"),
        ({"codes": GOOD, "levels": np.array(512)}, "", "has values of 512 levels, but --data.levels is 6: codes"),
        ({"codes": GOOD + 9, "levels": np.array(512)}, "", "has values of 512 levels, but --data.levels is 6: codes"),
        ({"codes": GOOD, "levels": np.array([6, 6])}, "", "codes.npz (levels) is int64 of shape (2,): expected one integer"),
        ({"codes": GOOD, "levels": np.array(1)}, "", "codes.npz (levels) is 1: expected one integer from 2 to 65536"),
        ({"codes": GOOD}, "--data.source_levels 512", "has values of 512 levels, but --data.levels is 6: codes"),
        ({"codes": GOOD}, "--data.flip true", "--data.flip mirrors pictures, but codes"),
        (
            {"codes": GOOD},
            "--model.condition labels",
            "labels needs labelled images, but codes.npz has no labels",
        ),
        ({}, "", "no file or folder 'codes.npz'"),
    ],
)
def test_bad_codes_for_training(named, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if named:
        np.savez("codes.npz", **named)
    assert main(f"train vq-prior --data.levels 6 {options} {TINY}".split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err
    assert not list(tmp_path.rglob("config.yaml"))


def test_bad_input_for_a_run(run, tmp_path, capsys):
    Image.new("L", (W, H)).save(tmp_path / "picture.png")
    np.savez(tmp_path / "split.npz", train=GOOD, test=GOOD)
    np.savez(tmp_path / "other.npz", codes=GOOD, labels=np.zeros(30, int), levels=9)
    np.save(tmp_path / "unlabelled.npy", GOOD)
    for words, message in (
        (["complete", "--image", "picture.png"], "this model draws codes, so expected one .npy or .npz file of them"),
        (["complete", "--image", "split.npz"], "has the splits train, test: expected one array of images"),
        (["complete", "--image", "other.npz"], "has values of 9 levels, but --data.levels is 6"),
        (["complete", "--image", "unlabelled.npy"], "this model needs a condition"),
        (["evaluate", "--data", "other.npz"], "has values of 9 levels, but --data.levels is 6"),
    ):
        verb, option, file = words
        assert main([verb, str(run), option, str(tmp_path / file)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1, err


def test_an_archive_of_images_that_says_its_levels_is_quantised_from_them(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.full((9, 2, 2), 12), levels=17)
    settings = DataSettings(source=str(tmp_path / "images.npz"), levels=4)
    images = Images(load_source(settings.source, settings)["all"], settings)
    assert images.tensor().unique().tolist() == [12 * 4 // 17]
