"""The condition `Known`: completion from any mask, exactly normalised, with masks for training and the command line."""

import itertools

import numpy as np
import pytest
import torch
from made_runs import make_run
from PIL import Image
from tiny import images, tiny_model

import nextpixel
from nextpixel import Combination, Encoded, Known, Labels
from nextpixel.cli import main
from nextpixel.conditions.known import given_symbols
from nextpixel.data.masks import KINDS, Masks, draw_mask
from nextpixel.errors import InputError
from nextpixel.models import MODELS
from nextpixel.pictures.masks import load_mask
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.objective import Likelihood

pairs = pytest.mark.pairs


def mask(kind, shape, seed=0):
    return torch.from_numpy(draw_mask(kind, shape, seed))


# --- the law -------------------------------------------------------------------------------------------------------------


@pairs(name=MODELS, kind=KINDS, levels=[2, 3])
def test_the_law_of_what_is_unknown_sums_to_one(name, kind, levels):
    shape = (2, 2, 2) if kind in ("symbols", "channels") else (1, 2, 3)
    model = tiny_model(name, shape, levels, condition="known")
    x = images(model, 1, seed=4)
    seed = next(seed for seed in range(100) if kind == "nothing" or 0 < mask(kind, shape, seed).sum() < 6)
    known = mask(kind, shape, seed)
    free = ~known.flatten()
    fillings = torch.tensor(list(itertools.product(range(levels), repeat=int(free.sum()))))
    every = x.flatten(1).repeat(len(fillings), 1)
    every[:, free] = fillings
    log_p = model.log_prob(every.view(-1, *shape), known=known)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert log_p.std() > 1e-3


@pairs(name=MODELS, kind=KINDS, inputs=["intensity", "embedding"])
def test_what_is_unknown_changes_no_bit_of_h_and_what_is_known_does(name, kind, inputs):
    shape = (3, 5, 4)
    model = tiny_model(name, shape, 5, condition="known", inputs=inputs)
    x, y, known = images(model, 2, seed=1), images(model, 2, seed=2), mask(kind, shape, 5)
    h = [model.encode_condition(given_symbols(torch.where(known, x, other), known), 2, 5, 4) for other in (x, y)]
    assert torch.equal(*h)
    if kind == "nothing":
        assert not h[0].any()
    else:
        assert (model.encode_condition(given_symbols(y, known), 2, 5, 4) - h[0]).abs().max() > 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_with_nothing_known_it_is_the_model_itself_and_with_everything_nothing_is_left(name):
    model = tiny_model(name, (3, 3, 4), condition="known")
    x, none = images(model, 3), torch.zeros(3, 4, dtype=torch.bool)
    torch.testing.assert_close(model.log_prob(x), model.log_prob(x, known=none), rtol=1e-13, atol=0)
    assert torch.equal(model.sample(2, seed=5), model.complete(x[:2], none, seed=5))
    assert model.log_prob(x, known=~none).tolist() == [0, 0, 0]
    assert torch.equal(model.complete(x, ~none).long(), x)


@pytest.mark.parametrize("name", MODELS)
def test_a_new_model_begins_as_if_nothing_were_known(name):
    model = MODELS[name]((1, 4, 4), levels=3, condition=Known(4, 2))
    x, known = images(model, 2), mask("points", (1, 4, 4), 1)
    assert not model.encode_condition(given_symbols(x, known), 2, 4, 4).any()


@pairs(name=MODELS, kind=list(KINDS)[1:], method=["naive", "compiled", "fixed-point"], condition=["known", "labels+known"])
def test_completions_are_the_same_by_every_method_and_known_symbols_stay(name, kind, method, condition):
    shape = (3, 3, 4)
    model = tiny_model(name, shape, condition=condition)
    cond = torch.tensor([2, 1]) if condition == "labels+known" else None
    x, known = images(model, 2), mask(kind, shape, 2)
    drawn = model.complete(x, known, n=2, cond=cond, seed=1, method="cached")
    assert torch.equal(drawn, model.complete(x, known, n=2, cond=cond, seed=1, method=method))
    assert torch.equal(torch.where(known, drawn.long(), 0), torch.where(known, x.repeat_interleave(2, 0), 0))


def test_completions_follow_the_law():
    model = tiny_model("gated-pixelcnn", (1, 2, 2), 2, condition="known", seed=3)
    known = torch.tensor([[False, False], [True, True]])  # what comes later decides what comes first
    x = torch.tensor([[[[0, 0], [1, 0]]]])
    drawn = model.complete(x, known, n=4000, seed=0).long()
    for filling in itertools.product(range(2), repeat=2):
        x[0, 0, 0] = torch.tensor(filling)
        p = model.log_prob(x, known=known).exp().item()
        share = (drawn[:, 0, 0] == x[0, 0, 0]).all(1).double().mean().item()
        assert abs(share - p) < 4 * (p * (1 - p) / 4000) ** 0.5 + 1e-3


def test_the_earlier_known_symbols_count_without_the_condition_and_the_later_do_not():
    model = tiny_model("pixelcnn", (1, 3, 4))
    x, known = images(model, 1), torch.zeros(3, 4, dtype=torch.bool)
    known[-1] = True
    first = model.log_prob(x, known=known)
    x[0, 0, -1] = (x[0, 0, -1] + 1) % model.levels
    assert torch.equal(first, model.log_prob(x, known=known))


@pytest.mark.parametrize("guidance", [0, 1, 2.5])
def test_labels_beside_what_is_known(guidance):
    model = tiny_model("gated-pixelcnn", (1, 3, 4), condition=Combination(Labels(3), Known(3, 1)))
    x, known = images(model, 3), mask("points", (1, 3, 4), 4)
    labels = torch.tensor([0, 2, 1])
    given = (labels, given_symbols(x, known))
    of_label = model.log_prob(x, labels, guidance, known=known)
    assert torch.equal(of_label, model.log_prob(x, given, guidance, known=known))
    assert torch.equal(of_label, model.log_prob(x, (labels, None), guidance, known=known))
    assert torch.equal(
        model.complete(x, known, cond=labels, guidance=guidance), model.complete(x, known, cond=given, guidance=guidance)
    )
    if guidance == 1:
        assert not torch.equal(of_label, model.log_prob(x, (labels + 1) % 3, known=known))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(4, 3, dtype=torch.bool), r"known \(4, 3\) does not fit images \(2, 1, 3, 4\)"),
        (torch.ones(3, 4), "known must be a bool mask, not torch.float32"),
        (torch.ones(0, dtype=torch.bool), r"known \(0,\) does not fit images"),
        ("all", "known must be numbers, not str"),
    ],
)
def test_bad_masks(known, message):
    model = tiny_model("gated-pixelcnn", condition="known")
    x = images(model, 2)
    for call in (model.complete, lambda x, known: model.log_prob(x, known=known)):
        with pytest.raises(InputError, match=message):
            call(x, known)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Known(0), "maps"),
        (lambda: Known(4, 0), "blocks"),
        (lambda: Combination(Known(2, 1), Known(2, 1)), "one condition on what is known, not several"),
        (lambda: Known(2, 1)(None, 1, 2, 2), "belongs to no model yet"),
    ],
)
def test_bad_conditions(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (torch.zeros(2, 1, 3, 4), "cond must be integers"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.long), "cond must be integers"),
        (torch.full((2, 1, 3, 4), 9), r"known symbols must be 0\.\.3, or -1 where unknown, not 9\.\.9"),
        (torch.full((2, 1, 3, 4), -2), r"not -2\.\.-2"),
    ],
)
def test_bad_given_symbols(cond, message):
    model = tiny_model("gated-pixelcnn", (1, 3, 4), 4, condition="known")
    with pytest.raises(InputError, match=message):
        model.log_prob(images(model, 2), cond)


def test_one_condition_serves_one_model():
    condition = Known(2, 1)
    tiny_model("gated-pixelcnn", (1, 3, 4), 4, condition=condition)
    with pytest.raises(InputError, match="cannot also serve"):
        tiny_model("gated-pixelcnn", (1, 3, 4), 5, condition=condition)


# --- masks and training --------------------------------------------------------------------------------------------------


@pairs(kind=KINDS, shape=[(1, 1, 1), (3, 1, 5), (1, 6, 1), (2, 7, 9), (3, 28, 28)])
def test_masks_leave_something_unknown_and_follow_from_their_seed(kind, shape):
    drawn = [draw_mask(kind, shape, seed) for seed in range(50)]
    for seed, known in enumerate(drawn):
        assert (known.shape, known.dtype) == (shape, bool)
        assert not known.all()
        np.testing.assert_array_equal(known, draw_mask(kind, shape, seed))
    if shape == (3, 28, 28) and kind != "nothing":
        assert len({known.tobytes() for known in drawn}) > 4
        assert 0.05 < np.mean(drawn) < 0.95
        alike = all((known == known[:1]).all() for known in drawn)
        assert alike == (kind not in ("symbols", "channels"))


def test_a_fifth_of_the_images_have_nothing_known():
    known = Masks(None, (1, 8, 8)).draw(range(4000)).flatten(1)
    assert 0.17 < (~known.any(1)).double().mean() < 0.27  # few points at random may be none
    assert not Masks(["nothing"], (1, 8, 8)).draw(range(20)).any()
    assert Masks(["half"], (1, 8, 8)).draw(range(20)).flatten(1).any(1).all()


@pytest.mark.parametrize("condition", ["known", "labels+known"])
def test_the_loss_is_bits_per_unknown_number(condition):
    model = tiny_model("gated-pixelcnn", (1, 4, 4), condition=condition).train()
    x, labels = images(model, 6), torch.arange(6) % 3
    objective = Likelihood(model, TrainingSettings(), ["points", "half"])
    torch.manual_seed(3)
    loss = objective((x, labels))
    torch.manual_seed(3)
    known = Masks(["points", "half"], (1, 4, 4)).draw(torch.randint(2**62, (6,)).tolist())
    nats = -model.log_prob(x, labels if condition == "labels+known" else None, known=known).sum()
    assert loss.item() == pytest.approx((nats / np.log(2) / (~known).sum()).item(), rel=1e-9)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (["magic"], "--data.masks has 'magic': expected some of nothing, half, hole, window, strokes, points, grid, lines"),
        ([], "--data.masks is empty"),
        (["half", "channels"], "--data.masks has 'channels', but the images have one channel"),
    ],
)
def test_bad_kinds_of_masks(masks, message):
    with pytest.raises(InputError, match=message):
        Likelihood(tiny_model("gated-pixelcnn", condition="known"), TrainingSettings(), masks)


def test_masks_are_for_models_that_read_them():
    with pytest.raises(InputError, match=r"--data\.masks are for a model with --model\.condition known"):
        Likelihood(tiny_model("gated-pixelcnn"), TrainingSettings(), ["half"])
    multiscale = tiny_model("multiscale", condition="known")
    with pytest.raises(InputError, match="expected one of them; train all stages at once"):
        Likelihood(multiscale, TrainingSettings(stage=0))


TINY = "--model.features 8 --model.blocks 1 --model.head_features 8 --training.steps 4 --training.batch_size 8 --data.limit 64"


@pytest.mark.parametrize("condition", ["known", "labels+known"])
def test_a_run_is_trained_and_completes_and_validation_is_the_same_each_time(condition, tmp_path, capsys):
    run = tmp_path / "run"
    masks = "--data.masks [half,points]"
    assert main(f"train digits {TINY} --model.condition {condition} {masks} --report short --out {run}".split()) == 0
    model = nextpixel.load(run)
    assert [part.name for part in model.condition.each()][-1] == "known"
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(17, size=(2, 8, 8)))
    label = ["--label", "3"] if condition == "labels+known" else []
    out = tmp_path / "x.npz"
    assert (
        main(["complete", str(run), "--image", str(tmp_path / "a.npy"), "--known", "bottom:0.5", *label, "--out", str(out)]) == 0
    )
    assert "come after unknown ones" not in capsys.readouterr().err
    assert np.load(out)["images"].shape == (10, 1, 8, 8)
    assert main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "s.npy"), *label]) == 0


# --- the command line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with the condition, one without, pictures and arrays."""
    folder = tmp_path_factory.mktemp("known")
    for name, condition in (("known", Known(4, 2)), ("plain", None)):
        model = make_run(folder / name, "gated-pixelcnn", condition=condition)
        if condition is not None:
            torch.nn.init.normal_(model.condition.out.weight)
            model.save(folder / name / "model")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(np.where(rng.random((8, 8)) < 0.3, 255, 0).astype(np.uint8)).save(folder / "mask.png")
    values = rng.integers(made_levels(folder), size=(2, 8, 8)).astype(float)
    values[:, 2:5, 3:6] = np.nan
    np.save(folder / "nan.npy", values)
    np.save(folder / "no-data.npy", np.nan_to_num(values, nan=-999).astype(np.int64))
    np.save(folder / "half.npy", values + 0.5)
    np.save(folder / "small.npy", rng.integers(made_levels(folder), size=(2, 4, 4)))
    return folder


def made_levels(folder):
    return nextpixel.load(folder / "plain").levels


def complete(runs, tmp_path, options, run="known", image="a.png"):
    out = tmp_path / "x.npy"
    command = [
        "complete",
        runs / run,
        "--image",
        runs / image,
        *options.replace("FOLDER", str(runs)).split(),
        "-n",
        3,
        "--out",
        out,
    ]
    assert main([str(word) for word in command]) == 0
    return np.load(out)


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ("--missing 2,3,4,5", lambda x: ~np.pad(np.ones((4, 5), bool), ((2, 2), (3, 0)))),
        ("--known bottom:0.25", lambda x: np.arange(8)[:, None] >= 6),
        ("--known random:1", lambda x: np.ones((8, 8), bool)),
        ("--known FOLDER/mask.png", lambda x: None),
    ],
)
def test_what_is_known_is_said_in_every_form(runs, tmp_path, options, known):
    drawn = complete(runs, tmp_path, options)
    levels = made_levels(runs)
    x = np.asarray(Image.open(runs / "a.png")).astype(int) * levels // 256
    expected = known(x)
    if expected is None:
        expected = np.asarray(Image.open(runs / "mask.png")) == 255
    expected = np.broadcast_to(expected, x.shape)
    model = nextpixel.load(runs / "known")
    wanted = model.complete(torch.from_numpy(x)[None, None], torch.from_numpy(expected.copy()), n=3, seed=0)
    np.testing.assert_array_equal(drawn, wanted.numpy())
    np.testing.assert_array_equal(drawn[:, 0][:, expected], np.broadcast_to(x[expected], (3, expected.sum())))


def test_places_at_random_follow_from_the_seed(runs, tmp_path):
    x = np.asarray(Image.open(runs / "a.png")).astype(int) * made_levels(runs) // 256
    drawn = complete(runs, tmp_path, "--known random:0.5")
    kept = (drawn[:, 0] == x).all(0)
    assert 15 < kept.sum() < 60
    np.testing.assert_array_equal(drawn, complete(runs, tmp_path, "--known random:0.5 --force"))
    assert not np.array_equal(kept, (complete(runs, tmp_path, "--known random:0.5 --force --seed 4")[:, 0] == x).all(0))


def test_a_smaller_image_is_every_second_place_of_a_larger(runs, tmp_path):
    drawn = complete(runs, tmp_path, "--upscale 2", image="small.npy")
    small = np.load(runs / "small.npy")
    assert drawn.shape == (6, 1, 8, 8)
    np.testing.assert_array_equal(drawn[:, 0, ::2, ::2], small.repeat(3, 0))


@pytest.mark.parametrize(("image", "value"), [("nan.npy", "nan"), ("no-data.npy", "-999")])
def test_what_was_not_measured_is_unknown(runs, tmp_path, image, value):
    drawn = complete(runs, tmp_path, f"--missing-value={value}", image=image)
    values = np.load(runs / "nan.npy")
    known = ~np.isnan(values[0])
    np.testing.assert_array_equal(drawn[:, 0][:, known], values.repeat(3, 0)[:, known])
    assert drawn.max() < made_levels(runs)


def test_a_value_of_a_picture_is_unknown(runs, tmp_path):
    picture = np.asarray(Image.open(runs / "a.png"))
    drawn = complete(runs, tmp_path, f"--missing-value {picture[3, 3]}")
    known = picture != picture[3, 3]
    np.testing.assert_array_equal(drawn[0, 0][known], picture[known].astype(int) * made_levels(runs) // 256)


def test_maps_of_mean_and_uncertainty(runs, tmp_path, capsys):
    command = ["complete", runs / "known", "--image", runs / "a.png", "--missing", "0,0,8,4", "-n", 6, "--maps", "--out"]
    assert main([str(word) for word in [*command, tmp_path / "x.png"]]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("x.png", "x-mean.png", "x-uncertainty.png")]
    model, levels = nextpixel.load(runs / "known"), made_levels(runs)
    x = np.asarray(Image.open(runs / "a.png")).astype(int) * levels // 256
    known = torch.arange(8) >= 4
    drawn = model.complete(torch.from_numpy(x)[None, None], known, n=6, seed=0).numpy()[:, 0] / (levels - 1)
    for name, expected in (("mean", 255 * drawn.mean(0)), ("uncertainty", 510 * drawn.std(0))):
        pixels = np.asarray(Image.open(tmp_path / f"x-{name}.png"))[..., 0]
        scale = (pixels.shape[0] - 4) // 8
        np.testing.assert_allclose(pixels[2 + scale // 2 :: scale, 2 + scale // 2 :: scale][:8, :8], expected, atol=0.51)
    refused = [*command, tmp_path / "x.png"]
    assert main([str(word) for word in refused]) == 2  # they are there


@pytest.mark.parametrize(
    ("options", "later"),
    [("--known bottom:0.5", "32 of 32"), ("--known top:0.5", None), ("--missing 2,0,1,8", "40 of 56"), ("--known right:1", None)],
)
def test_a_plain_model_says_what_it_cannot_see(runs, tmp_path, capsys, options, later):
    complete(runs, tmp_path, options, run="plain")
    err = capsys.readouterr().err
    assert (later is not None) == ("--model.condition known sees them all" in err)
    assert later is None or f"{later} known symbols come after unknown ones" in err


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ("a.png", "--known top:0.5 --missing 1,1,2,2", "--known and --missing: expected one of them"),
        ("a.png", "--missing 1,1,2", "--missing 1,1,2: expected row,column,height,width"),
        ("a.png", "--missing 7,7,2,2", "--missing 7,7,2,2: no rectangle inside an image of height 8 and width 8"),
        ("a.png", "--missing 0,0,0,2", "no rectangle inside"),
        ("a.png", "--upscale 1", "--upscale 1: expected at least 2"),
        ("a.png", "--known random:2", "random:2: the known share must be a number from 0 to 1"),
        ("a.png", "--known somewhere", "somewhere is neither a mask file nor one of top:S"),
        ("half.npy", "--missing-value nan", "has values that are no whole numbers: quantise them to 0.."),
        ("nan.npy", "--missing-value 3", "has values that are no whole numbers"),
        ("a.png", "--missing-value x", "--missing-value x: expected nan or a number"),
        ("a.png", "--maps -n 1", "--maps: -n 1 shows no spread: expected at least 2"),
    ],
)
def test_bad_options(runs, tmp_path, refuse, image, options, message):
    command = ["complete", runs / "known", "--image", runs / image, *options.split(), "--out", tmp_path / "x.png"]
    assert message in refuse(command)
    assert not list(tmp_path.iterdir())


def test_an_encoder_beside_what_is_known_is_asked_for_its_own_part():
    model = tiny_model("gated-pixelcnn", (1, 3, 4), 4, condition=Combination(Encoded(2, 3), Known(2, 1)))
    x, known = images(model, 2), mask("half", (1, 3, 4), 1)
    assert model.complete(x, known, cond=x).shape == x.shape


@pytest.mark.parametrize(
    ("spec", "unknown"), [("bottom:0.25", 48), ("half", None), ("points", None), ("nothing", 64), ("random:0.5", None)]
)
def test_what_is_unknown_is_evaluated_given_the_rest(runs, tmp_path, capsys, spec, unknown):
    model, levels = nextpixel.load(runs / "known"), made_levels(runs)
    x = np.random.default_rng(1).integers(levels, size=(5, 8, 8))
    np.savez(tmp_path / "a.npz", images=x, levels=levels)
    csv = tmp_path / "a.csv"
    assert main(["evaluate", str(runs / "known"), "--data", str(tmp_path / "a.npz"), "--known", spec, "--csv", str(csv)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "unknown numbers of 64 per image, given the others" in out
    assert unknown is None or f"of {unknown}.0 unknown" in out
    assert "PNG" not in out
    x = torch.from_numpy(x)[:, None]
    known = Masks([spec], (1, 8, 8)).draw(range(5)) if spec in KINDS else load_mask(spec, 8, 8).expand(5, 1, 8, 8)
    with torch.no_grad():
        nats = -model.log_prob(x, known=known)
    rows = [line.split(",") for line in csv.read_text().splitlines()]
    found = {name: [float(row[k]) for row in rows[1:]] for k, name in enumerate(rows[0])}
    np.testing.assert_allclose(found["nats"], nats, rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_dim"], nats / (~known).flatten(1).sum(1) / np.log(2), rtol=1e-5)


def test_everything_known_leaves_nothing_to_evaluate(runs, tmp_path, refuse):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8), int), levels=made_levels(runs))
    refused = refuse(["evaluate", runs / "known", "--data", tmp_path / "a.npz", "--known", "top:1"])
    assert "everything is known of an image" in refused
