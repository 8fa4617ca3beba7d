"""Scores: exact figures, methods by their formulas, the detector in scikit-learn's habits, Bayes' rule, and the verbs."""

import csv
import json
import math
import warnings

import numpy as np
import pytest
import torch
from made_runs import make_run
from PIL import Image
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.models import MODELS
from nextpixel.scoring import unusual
from nextpixel.scoring.baselines import codec_nats
from nextpixel.scoring.classification import Classification, log_joint, prior_of
from nextpixel.scoring.unusual import Measure, load_figures, maps, percentile, save_figures, score, separate, smoothed, surprise

pairs = pytest.mark.pairs


@pairs(name=MODELS, channels=[1, 3], condition=["none", "labels", "spatial-map"])
def test_surprise_sums_to_the_likelihood(name, channels, condition):
    model = tiny_model(name, (channels, 3, 4), condition=condition)
    x, cond = images(model, 3), random_cond(model, 3)
    found = surprise(model, x, cond)
    assert found.shape == x.shape
    torch.testing.assert_close(found.flatten(1).sum(1), -model.log_prob(x, cond).detach())
    torch.testing.assert_close(maps(model, x, cond), found.sum(1))
    assert (found >= 0).all()


def test_a_map_of_a_ratio_is_a_difference_that_sums_to_the_score():
    model, other = (tiny_model("pixelcnn", seed=seed) for seed in (1, 2))
    x = images(model, 3)
    found = maps(model, x, background=other)
    figures = Measure(model, ["ratio"], other).batch(x)
    np.testing.assert_allclose(found.flatten(1).sum(1), score("ratio", figures), rtol=1e-9)


def test_methods_by_their_formulas():
    rng = np.random.default_rng(0)
    names = ("nats", "codec", "background", "shuffle")
    figures, reference = ({name: rng.normal(50, 9, n) for name in names} for n in (7, 40))
    nats = figures["nats"]
    np.testing.assert_array_equal(score("likelihood", figures), nats)
    for method, name in (("complexity", "codec"), ("ratio", "background"), ("shuffle", "shuffle")):
        np.testing.assert_array_equal(score(method, figures), nats - figures[name])
    expected = np.abs(nats - reference["nats"].mean()) / reference["nats"].std()
    np.testing.assert_allclose(score("typicality", figures, reference), expected)
    far = {name: values + 1000 for name, values in reference.items()}
    far["codec"] = reference["codec"]
    assert score("combined", far, reference).min() > score("combined", reference, reference).max()
    np.testing.assert_array_equal(percentile(np.array([1.0, 5.0]), np.array([0.0, 1.0, 2.0, 9.0])), [25, 75])


def test_separation_is_that_of_scikit_learn_with_an_interval():
    rng = np.random.default_rng(0)
    usual, others = rng.normal(0, 1, 300), rng.normal(1, 1, 200)
    found = separate(usual, others)
    truth = np.repeat([0, 1], [300, 200])
    assert found.auroc[0] == pytest.approx(roc_auc_score(truth, np.concatenate([usual, others])))
    assert found.auroc[1] < found.auroc[0] < found.auroc[2]
    assert found.auroc[1] < stats.norm.cdf(1 / math.sqrt(2)) < found.auroc[2]
    assert found.fpr95[0] == pytest.approx((usual >= np.sort(others)[9]).mean(), abs=0.02)


def test_the_smallest_file_counts():
    rng = np.random.default_rng(0)
    plain, noise = np.zeros((1, 1, 16, 16), int), rng.integers(256, size=(1, 1, 16, 16))
    found = codec_nats(np.concatenate([plain, noise]), 256)
    assert found[0] < found[1] / 4
    assert found[1] >= 256 * 8 * math.log(2) * 0.9
    with pytest.raises(InputError, match="take 1 or 3 channels and up to 256 levels, not 2 and 4"):
        codec_nats(np.zeros((1, 2, 4, 4), int), 4)


def test_shuffled_images_have_the_same_symbols():
    x = torch.arange(24).view(1, 2, 3, 4).expand(2, -1, -1, -1)
    found = unusual._shuffled(x)
    assert torch.equal(found.flatten(2).sort(2).values, x.flatten(2))
    assert torch.equal(found[:, 1], found[:, 0] + 12)  # the channels of a place stay together
    assert not torch.equal(found, x)


def test_smoothing_keeps_means():
    flat = torch.full((2, 5, 7), 3.0)
    for size in (1, 2, 3, 4, 9):
        torch.testing.assert_close(smoothed(flat, size), flat)


def test_figures_are_kept_without_pickle(tmp_path):
    figures = {"nats": np.arange(3.0), "codec": np.ones(3)}
    save_figures(figures, tmp_path / "a.npz")
    for name, values in load_figures(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(values, figures[name])
    np.savez(tmp_path / "b.npz", nats=np.array([None]))
    np.savez(tmp_path / "c.npz", nats=np.array([np.nan]))
    np.savez(tmp_path / "d.npz", other=np.ones(2))
    for name in "bcd":
        with pytest.raises(InputError, match="figures of reference images"):
            load_figures(tmp_path / f"{name}.npz")


# --- the detector --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return tiny_model("pixelcnn", (1, 4, 4), 3).float()


@pytest.mark.parametrize("method", ["likelihood", "complexity", "ratio", "typicality", "shuffle", "combined"])
def test_the_detector_has_the_habits_of_scikit_learn(model, method, tmp_path):
    rng = np.random.default_rng(0)
    usual, others = rng.integers(3, size=(60, 4, 4)), rng.integers(3, size=(9, 1, 4, 4))
    background = tiny_model("pixelcnn", (1, 4, 4), 3, seed=4).float() if method == "ratio" else None
    detector = nextpixel.AnomalyDetector(model, method=method, background=background, contamination=0.1)
    assert detector.fit(usual) is detector
    assert (detector.predict(usual) == -1).sum() == pytest.approx(6, abs=1)
    np.testing.assert_allclose(detector.decision_function(others), detector.score_samples(others) - detector.offset_)
    np.testing.assert_array_equal(detector.predict(others), np.where(detector.decision_function(others) < 0, -1, 1))
    reference = usual if method in ("typicality", "combined") else None
    higher = nextpixel.score(model, others, method, background, reference)
    np.testing.assert_allclose(-detector.score_samples(others), higher, rtol=1e-5)
    np.testing.assert_array_equal(detector.fit_predict(usual), detector.predict(usual))
    detector.save(tmp_path / "detector")
    again = nextpixel.AnomalyDetector.load(tmp_path / "detector")
    np.testing.assert_array_equal(again.predict(others), detector.predict(others))
    np.testing.assert_allclose(again.decision_function(others), detector.decision_function(others))


def test_the_detector_is_cloned_and_works_in_a_pipeline_of_flat_images(model):
    rng = np.random.default_rng(0)
    flat = rng.integers(3, size=(40, 16))
    pipeline = make_pipeline(FunctionTransformer(lambda x: x.astype(float)), nextpixel.AnomalyDetector(model))
    pipeline.fit(flat)
    fresh = clone(nextpixel.AnomalyDetector(model, contamination=0.2))
    assert fresh.get_params()["contamination"] == 0.2
    alone = nextpixel.AnomalyDetector(model).fit(flat.reshape(40, 4, 4))
    np.testing.assert_array_equal(pipeline.predict(flat), alone.predict(flat.reshape(40, 1, 4, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: nextpixel.AnomalyDetector(m).fit(np.zeros((1, 4, 4), int)), "fit needs at least two images"),
        (lambda m: nextpixel.AnomalyDetector(m, contamination=0.7).fit(np.zeros((9, 4, 4), int)), "contamination is 0.7"),
        (
            lambda m: nextpixel.AnomalyDetector(m, "typicality").fit(np.zeros((9, 4, 4), int)),
            "all reference images have the same",
        ),
        (lambda m: nextpixel.score(m, np.zeros((0, 4, 4), int)), "no images to score"),
        (lambda m: nextpixel.score(m, np.full((2, 4, 4), np.nan)), "must be integers"),
        (lambda m: nextpixel.score(m, np.full((2, 4, 4), 9)), r"symbols 0\.\.2"),
        (lambda m: nextpixel.score(m, np.zeros((2, 4, 4), int), "magic"), "--method magic: expected some of likelihood"),
        (lambda m: nextpixel.score(m, np.zeros((2, 4, 4), int), "ratio"), "needs a background model"),
        (lambda m: nextpixel.score(m, np.zeros((2, 4, 4), int), "typicality"), "needs at least 2 reference images"),
        (
            lambda m: nextpixel.score(m, np.zeros((2, 4, 4), int), "ratio", tiny_model("pixelcnn", (1, 4, 4), 5)),
            "background model is for 1 channels and 5 levels, but the model for 1 channels and 3 levels",
        ),
    ],
)
def test_bad_input(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


# --- classes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_bayes_rule(name):
    model = tiny_model(name, (1, 3, 4), condition="labels")
    x = images(model, 3)
    log_prior = prior_of([1, 2, 3, 4], 4)
    found = log_joint(model, x, log_prior)
    for y in range(4):
        expected = model.log_prob(x, y) + math.log((y + 1) / 10)
        torch.testing.assert_close(found[:, y], expected)


def test_calibration_and_confusion():
    posterior = np.array([[0.95, 0.05], [0.85, 0.15], [0.3, 0.7], [0.75, 0.25]])
    found = Classification(posterior, np.array([0, 1, 1, 0]), 1.0)
    assert found.accuracy == 0.75
    assert found.confusion.tolist() == [[2, 0], [1, 1]]
    assert found.calibration_error == pytest.approx((0.05 + 0.85 + 2 * (1 - 0.725)) / 4)


@pytest.mark.parametrize("prior", [[1, 2], [1, 0, 1], [1, -1, 1], [1, float("nan"), 1]])
def test_bad_priors(prior):
    with pytest.raises(InputError, match="the prior must be 3 numbers above 0"):
        prior_of(prior, 3)


# --- the verbs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    model = make_run(folder / "run", "pixelcnn", condition=None)
    make_run(folder / "labelled", "pixelcnn")
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", images=rng.integers(model.levels, size=(20, 8, 8)), levels=model.levels)
    np.savez(folder / "flat.npz", images=np.zeros((6, 8, 8), int), levels=model.levels)
    return folder


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_score_writes_tables_and_pictures(run, tmp_path, capsys):
    out = tmp_path / "out"
    methods = "complexity,likelihood,typicality,combined,shuffle"
    words = ["score", run / "run", "--most", 30, "--against", run / "a.npz", "--method", methods, "--smooth", 3, "--out", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "complexity: AUROC " in printed
    assert "small files alone: AUROC " in printed
    for name in ("scores.csv", "scores.json", "histograms.png", "sheet.png", "roc.png"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 100
    rows = table(out / "scores.csv")
    assert [row["set"] for row in rows].count("against") == 20
    assert len(rows) == 50
    model = nextpixel.load(run / "run")
    x = torch.from_numpy(np.load(run / "a.npz")["images"])[:, None]
    with torch.no_grad():
        nats = -model.log_prob(x)
    np.testing.assert_allclose([float(row["likelihood"]) for row in rows[30:]], nats, rtol=1e-5)
    kept = load_figures(run / "run" / "calibration.npz")
    ranks = [float(row["likelihood percentile"]) for row in rows[30:]]
    np.testing.assert_allclose(ranks, percentile(nats.double().numpy(), kept["nats"]), atol=0.01)
    summary = json.loads((out / "scores.json").read_text())
    mine = summary["methods"]["likelihood"]["auroc"][0]
    usual = [float(row["likelihood"]) for row in rows[:30]]
    assert mine == pytest.approx(roc_auc_score([0] * 30 + [1] * 20, usual + nats.tolist()), abs=1e-9)
    assert main([str(word) for word in words]) == 2  # they are there
    assert main([str(word) for word in [*words, "--force"]]) == 0


def test_score_by_a_background_model(run, tmp_path):
    out = tmp_path / "out"
    words = ["score", run / "run", "--data", run / "a.npz", "--method", "ratio", "--background", run / "run", "--out", out]
    assert main([str(word) for word in words]) == 0
    assert {float(row["ratio"]) for row in table(out / "scores.csv")} == {0.0}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_background_is_trained_on_mutated_images(share):
    from nextpixel.data.settings import DataSettings
    from nextpixel.data.splits import load

    splits = load(DataSettings(source="digits", levels=17, mutate=share))
    plain = load(DataSettings(source="digits", levels=17))
    torch.manual_seed(0)
    first, second = splits.train.tensor(), splits.train.tensor()
    changed = (first != plain.train.tensor()).double().mean().item()
    assert changed == pytest.approx(share * 16 / 17, abs=0.005)
    assert torch.equal(first, second) == (share == 0)
    assert torch.equal(splits.validation.tensor(), plain.validation.tensor())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method magic", "--method magic: expected some of likelihood, complexity"),
        ("--method ratio", "needs a background model: --background RUN"),
        ("--most 0", "--most is 0: expected at least 1"),
        ("--data nowhere.npz", "no file or folder 'nowhere.npz'"),
        ("--background nowhere --method ratio", "nowhere does not exist"),
    ],
)
def test_bad_options(run, tmp_path, monkeypatch, refuse, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refuse(["score", run / "run", *options.split()])
    assert not (tmp_path / "scores").exists()


def test_classify(run, tmp_path, capsys, refuse):
    out = tmp_path / "out"
    words = ["classify", run / "labelled", "--most", 20, "--prior", "counted", "--out", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "classes.json").read_text())
    assert f"accuracy {summary['accuracy']:.4f}" in printed
    rows = table(out / "posteriors.csv")
    assert len(rows) == 20
    for row in rows:
        p = [float(row[f"p({k})"]) for k in range(10)]
        assert sum(p) == pytest.approx(1, abs=1e-4)
        assert int(row["found"]) == int(np.argmax(p))
    assert summary["accuracy"] == pytest.approx(np.mean([row["found"] == row["label"] for row in rows]))
    for name in ("confusion.png", "reliability.png"):
        assert Image.open(out / name).size[0] > 100
    assert "is not class-conditional" in refuse(["classify", run / "run", "--out", tmp_path / "b"])
    assert "the prior must be 10 numbers" in refuse(["classify", run / "labelled", "--prior", "1,2", "--out", tmp_path / "b"])
    assert "expected counted, or a weight" in refuse(["classify", run / "labelled", "--prior", "x", "--out", tmp_path / "b"])


def test_information(run, tmp_path, capsys, refuse):
    words = ["information", run / "run", "--data", run / "a.npz", run / "flat.npz", "--noise", 0.5, "--json", "-"]
    assert main([str(word) for word in words]) == 0
    rows = json.loads(capsys.readouterr().out)
    model = nextpixel.load(run / "run")
    x = torch.from_numpy(np.load(run / "a.npz")["images"])[:, None]
    with torch.no_grad():
        bits = -model.log_prob(x).double().mean().item() / 64 / math.log(2)
    assert rows[0]["bits_per_pixel"] == pytest.approx(bits, rel=1e-5)
    assert rows[0]["information"] == pytest.approx(bits - 0.5, rel=1e-4)
    assert main(["information", str(run / "run"), "--most", "9"]) == 0
    assert "bits per pixel, 9 images" in capsys.readouterr().out
    assert "--noise is -1.0" in refuse(["information", run / "run", "--noise", -1])


def test_a_run_whose_data_are_gone_scores_without_percentiles(run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run / "run", copy)
    (copy / "calibration.npz").unlink(missing_ok=True)
    config = (copy / "config.yaml").read_text().replace("source: digits", "source: /nowhere.npz")
    (copy / "config.yaml").write_text(config)
    words = ["score", copy, "--data", run / "a.npz", "--method", "likelihood", "--out", tmp_path / "out"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(word) for word in words]) == 0
    assert "likelihood percentile" not in table(tmp_path / "out" / "scores.csv")[0]
    assert main([str(word) for word in [*words, "--method", "typicality", "--force"]]) == 2
