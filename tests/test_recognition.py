"""Are samples of the wanted class: the classifier is right, its verdict follows what is drawn, and runs report it."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pairs import Some, pairs
from PIL import Image
from rich.console import Console
from tiny import tiny_model

import nextpixel
from nextpixel.data.images import Images
from nextpixel.data.raw import RawImages
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import Splits, load
from nextpixel.errors import InputError
from nextpixel.likelihood_run import train
from nextpixel.progress import Parts
from nextpixel.recipes import Experiment
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.reports.sections import draw_guidance, judge_classes
from nextpixel.scoring import recognition as scoring_guidance
from nextpixel.scoring.evaluation import evaluate
from nextpixel.scoring.recognition import STRENGTHS, Classifier, Recognition, recognise_samples, sampled, sweep

SIZES = {"features": 8, "blocks": 2, "kernel_size": 3, "first_kernel_size": 3, "head_features": 8}


@pytest.fixture(scope="module")
def digits():
    return load(DataSettings(source="digits", levels=17))


@pytest.fixture(scope="module")
def classifier(digits):
    return Classifier.fit(digits.train)


def stored(x, labels, levels, names=None, **settings):
    raw = RawImages(np.asarray(x, np.uint8), None if labels is None else np.asarray(labels), names, levels)
    return Images(raw, DataSettings(source="made", levels=levels, **settings))


def striped(classes, number=40, shape=(1, 3, 4), levels=3, seed=0):
    """Noise of brightness 0 and 1 in which class k has one bright place, the k-th."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    x = generator.integers(levels - 1, size=(number, *shape))
    x.reshape(number, -1)[np.arange(number), labels] = levels - 1
    return stored(x, labels, levels)


# --- the classifier --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"levels": 17}, {"levels": 4}, {"levels": 2, "binarize": "threshold"}, {"levels": 2, "binarize": "stochastic"}],
    ids=str,
)
def test_the_classifier_knows_digits_at_any_levels(settings):
    splits = load(DataSettings(source="digits", **settings))
    recognition = Classifier.fit(splits.train).recognise_images(splits.test)
    assert len(recognition.wanted) == 180
    assert recognition.accuracy > (0.85 if settings.get("binarize") == "stochastic" else 0.95)


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3, 4), (2, 1, 9)], ids=str)
def test_the_classifier_takes_any_channels_and_sizes(shape):
    recognition = Classifier.fit(striped(4, 400, shape)).recognise_images(striped(4, 100, shape, seed=1))
    assert recognition.accuracy > 0.95


def test_the_classifier_sees_images_of_all_over_a_sorted_split(digits):
    order = digits.train.labels.argsort(stable=True)
    in_order = stored(digits.train.tensor()[order], digits.train.labels[order], 17)
    few = Classifier.fit(in_order, most=200)
    assert len(few.pipeline[-1].shape_fit_) == 2
    assert few.pipeline[-1].shape_fit_[0] == 200
    assert few.recognise_images(digits.test).accuracy > 0.85
    assert len(few.recognise_images(in_order, most=50).wanted) == 50
    assert np.unique(few.recognise_images(in_order, most=50).wanted).tolist() == list(range(10))


def test_what_is_drawn_for_the_classifier_depends_on_its_seed_alone():
    images = load(DataSettings(source="digits", levels=2, binarize="stochastic")).train
    before = torch.random.get_rng_state()
    first, again, other = (Classifier.fit(images, seed=seed).pipeline[-1].support_vectors_ for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before), "fitting a classifier moves the random numbers of the run"
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_symbols_are_scaled_to_the_same_range_at_all_levels():
    """Scaled, bits and their multiples are the same images: a classifier that reads raw symbols would see others."""
    bits = striped(4, 200, levels=2)
    wide = stored(bits.tensor() * 16, bits.labels, 17)
    x = bits.tensor()
    one, other = Classifier.fit(bits), Classifier.fit(wide)
    np.testing.assert_allclose(one.pipeline[0].mean_, other.pipeline[0].mean_, atol=1e-6)
    assert (one.recognise(x, bits.labels).found == other.recognise(x * 16, bits.labels).found).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: Classifier.fit(stored(np.zeros((4, 1, 2, 2)), None, 2)), "made has no labels: a classifier"),
        (lambda c: Classifier.fit(striped(1)), "needs images of two classes, but all 40 are of class 0"),
        (lambda c: Classifier.fit(striped(101, 202, (1, 11, 11))), "for at most 100 classes, but made has 101"),
        (lambda c: c.recognise_images(stored(np.zeros((4, 1, 8, 8)), None, 17)), "made has no labels: a classifier"),
        (lambda c: c.recognise_images(striped(4, shape=(1, 8, 8))), r"\(1, 8, 8\) with 17 levels, these are \(1, 8, 8\) with 3"),
        (lambda c: c.recognise_images(striped(4, levels=17)), r"\(1, 8, 8\) with 17 levels, these are \(1, 3, 4\) with 17"),
        (lambda c: c.recognise(torch.zeros(2, 1, 8, 9), torch.zeros(2)), r"for images \(1, 8, 8\), these are \(1, 8, 9\)"),
        (
            lambda c: recognise_samples(tiny_model("pixelcnn", (1, 8, 8), levels=17, condition="labels"), c),
            "for 10 classes and 17 levels, the model for 4 and 17",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(classifier, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(classifier)
    assert "\n" not in str(error.value)


# --- figures ---------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_recognition():
    wanted = np.array([0, 0, 0, 0, 1, 1, 3, 3, 3])
    found = np.array([0, 2, 2, 1, 1, 1, 0, 2, 2])
    recognition = Recognition(wanted, found, 4)
    assert recognition.accuracy == pytest.approx(3 / 9)
    assert recognition.standard_error == pytest.approx((5 / 13 * 8 / 13 / 13) ** 0.5)
    assert recognition.confusion.tolist() == [[1, 1, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 2, 0]]
    np.testing.assert_array_equal(recognition.per_class, [0.25, 1, np.nan, 0])
    assert [recognition.mistake(k) for k in range(4)] == [(2, 2), None, None, (2, 2)]
    assert recognition.confusion[0, 0] == 1, "asking for a mistake changes the confusion"


def test_no_mistake_is_not_perfect_certainty():
    assert 0.01 < Recognition(np.zeros(20, int), np.zeros(20, int), 2).standard_error < 0.1


class Drawer:
    """A model that draws real images: for a label, those of the class that `classes` names."""

    def __init__(self, images, classes):
        self.images, self.classes = images, classes
        self.condition, self.levels = SimpleNamespace(features=len(classes)), images.levels

    def sample(self, n, cond, seed, guidance, progress):
        generator = np.random.default_rng(seed)
        wanted = [self.classes[k] for k in cond.tolist()]
        chosen = [int(generator.choice((self.images.labels == k).nonzero().flatten().numpy())) for k in wanted]
        return self.images.tensor(chosen).to(torch.uint8)


def test_real_images_of_the_wanted_class_are_recognised_as_often_as_real_images(digits):
    weak = Classifier.fit(digits.train, most=60)  # so that there is something between 0 and 1 to agree on
    ceiling = weak.recognise_images(digits.train)
    assert 0.6 < ceiling.accuracy < 0.95
    x, recognition = recognise_samples(Drawer(digits.train, list(range(10))), weak)
    assert x.shape == (250, 1, 8, 8)
    assert np.bincount(recognition.wanted).tolist() == [25] * 10
    balanced = ceiling.per_class.mean()
    assert recognition.accuracy == pytest.approx(balanced, abs=4 * recognition.standard_error)
    assert np.abs(recognition.per_class - ceiling.per_class).max() < 0.4
    assert np.corrcoef(recognition.per_class, ceiling.per_class)[0, 1] > 0.7


def test_images_of_other_classes_are_not(digits, classifier):
    shifted = [(k + 1) % 10 for k in range(10)]
    _, recognition = recognise_samples(Drawer(digits.test, shifted), classifier)
    assert recognition.accuracy < 0.02
    for k in range(10):
        assert recognition.mistake(k)[0] == shifted[k]
        assert recognition.mistake(k)[1] >= 23


def test_a_class_that_goes_wrong_is_found(digits, classifier):
    _, recognition = recognise_samples(Drawer(digits.test, [0, 1, 2, 8, 4, 5, 6, 7, 8, 9]), classifier)
    assert recognition.per_class[3] < 0.1
    assert np.delete(recognition.per_class, 3).min() > 0.9
    assert recognition.mistake(3) == (8, pytest.approx(25, abs=2))


def test_as_many_samples_of_each_class_as_fit_into_one_scan():
    assert [sampled(classes) for classes in (2, 3, 10, 100)] == [256, 255, 250, 200]


# --- guidance --------------------------------------------------------------------------------------------------------------


# One whose scan is a program under guidance, and one of several passes; all models under guidance: test_guidance.py.
@pairs(name=Some(["gated-pixelcnn", "multiscale"], nextpixel.MODELS))
def test_strengths_1_and_0_are_the_model_itself_and_the_unconditional_one(name):
    model = tiny_model(name, condition="labels")
    images = striped(4, 50)
    fitted = Classifier.fit(images)
    zero, one, two = lines = sweep(model, fitted, images, strengths=(0.0, 1.0, 2.0), scored=20, seed=5)
    assert [line.guidance for line in lines] == [0, 1, 2]
    chosen = [int(k * 2.5) for k in range(20)]
    x, labels = images.__getitems__(chosen)
    wanted = torch.arange(256) % 4
    with torch.no_grad():
        for line, law, drawn in (
            (one, model.log_prob(x, labels), model.sample(256, wanted, seed=5)),
            (zero, model.log_prob(x, guidance=0), model.sample(256, seed=5, guidance=0)),
            (two, model.log_prob(x, labels, guidance=2), model.sample(256, wanted, seed=5, guidance=2)),
        ):
            np.testing.assert_allclose(line.evaluation.nats, -law.numpy(), rtol=1e-12)
            assert torch.equal(line.samples, drawn)
            assert (line.recognition.wanted == wanted.numpy()).all()
            assert (line.recognition.found == fitted.recognise(drawn, wanted).found).all()
    np.testing.assert_allclose(one.evaluation.nats, evaluate(model, images).nats[chosen], rtol=1e-12)
    assert (one.evaluation.labels == labels.numpy()).all()
    assert np.abs(one.evaluation.nats - zero.evaluation.nats).min() > 1e-9


def test_the_bar_counts_every_row(monkeypatch):
    seen = []

    def rows_bar(description, total):
        seen.append(total)
        return _Context(Parts(lambda done, total: seen.append(done), total))

    monkeypatch.setattr(scoring_guidance, "rows_bar", rows_bar)
    images = striped(4, 50)
    sweep(tiny_model("multiscale", condition="labels"), Classifier.fit(images), images, strengths=(0.0, 1.0, 2.0), scored=5)
    assert seen[1:] == list(range(1, seen[0] + 1))


class _Context:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *error):
        return None


def test_evaluation_of_some_images_is_that_of_all_at_these_places(digits):
    model = tiny_model("gated-pixelcnn", (1, 8, 8), levels=17)
    every, some = evaluate(model, digits.test), evaluate(model, digits.test, most=60)
    np.testing.assert_allclose(some.nats, every.nats[::3], rtol=1e-12)
    assert (some.labels == every.labels[::3]).all()
    assert len(evaluate(model, digits.test, most=500).nats) == 180
    with pytest.raises(InputError, match="most must be at least 1, not 0"):
        evaluate(model, digits.test, most=0)


# --- a run -----------------------------------------------------------------------------------------------------------------


# Neither is the default, and the classifier's training images depend on its seed: a seed that is not handed on shows.
SEED, DRAWN_BITS = 3, DataSettings(source="digits", levels=2, binarize="stochastic")


def run(out, data=None, dropout=0.2, epochs=2, console=None, **model):
    rates = {"warmup": 10, "lr": 0.02, "ema": 0.9, "condition_dropout": dropout}
    settings = TrainingSettings(epochs=epochs, sample_every=0, seed=SEED, **rates)
    data = data or DataSettings(source="digits", levels=2, binarize="threshold")
    model = {"name": "gated-pixelcnn", **SIZES, "condition": "labels", **model}
    return train(Experiment("test", "a tiny run", model, data, settings), out, console=console or Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, text = tmp_path_factory.mktemp("runs") / "classes", io.StringIO()
    return run(out, DRAWN_BITS, epochs=6, console=Console(file=text), features=16, blocks=3), out, text.getvalue()


def test_the_report_says_what_was_recognised(finished):
    result, out, printed = finished
    report = (out / "report.md").read_text()
    drawn, real = result.classes.drawn, result.classes.real
    rows = re.findall(r"^\| (\d) \| (\S+) \| (\d+) \| (?:(\d) \((\d+)\))? ?\| (\S+) \|$", report, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(10))
    for k, share, number, other, times, ceiling in rows:
        found = drawn.found[drawn.wanted == int(k)]
        assert int(number) == len(found) == 25
        assert float(share) == pytest.approx((found == int(k)).mean(), abs=1e-3)
        wrong = np.bincount(found[found != int(k)], minlength=10)
        assert (other == "") == (not wrong.any())
        if other:
            assert (int(times), int(times)) == (wrong[int(other)], wrong.max())
        assert float(ceiling) == pytest.approx((real.found == real.wanted)[real.wanted == int(k)].mean(), abs=1e-3)
    assert f"| **all** | **{drawn.accuracy:.3f} ± {drawn.standard_error:.3f}** | 250 | | {real.accuracy:.3f} ± " in report
    assert f"recognised {drawn.accuracy:.3f} ± {drawn.standard_error:.3f} of 250 samples, {real.accuracy:.3f} ± " in printed
    assert real.accuracy > 0.85
    assert len(real.wanted) == 180
    assert drawn.accuracy > 0.2, "after these steps it draws the wanted class more often than by chance"


def test_the_report_tells_guidance_by_table_and_plot(finished):
    result, out, printed = finished
    report, lines = (out / "report.md").read_text(), result.classes.strengths
    assert [line.guidance for line in lines] == list(STRENGTHS)
    rows = re.findall(r"^\| (\S+) \| (\d\.\d+) ± \S+ \| (\d\.\d+) ± (\d\.\d+) \|$", report, re.MULTILINE)
    assert [float(row[0]) for row in rows] == list(STRENGTHS)
    for (strength, share, bits, error), line in zip(rows, lines, strict=True):
        assert float(share) == pytest.approx(line.recognition.accuracy, abs=1e-3)
        assert float(bits) == pytest.approx(line.evaluation.bits_per_dim, abs=1e-4)
        assert float(error) == pytest.approx(line.evaluation.bits_per_dim_standard_error, abs=1e-4)
        assert f"guidance {strength}: recognised {share}" in printed
    assert lines[2].recognition is result.classes.drawn
    np.testing.assert_array_equal(lines[2].evaluation.nats, result.test.nats)
    for name in ("guidance", "guidance-samples"):
        assert f"(samples/{name}.png)" in report
        assert f"samples/{name}.png" in printed.replace("\n", "")


def test_the_plot_shows_the_figures(finished, tmp_path, monkeypatch):
    result, out, _ = finished
    assert Image.open(out / "samples" / "guidance.png").size == (1080, 432)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: (drawn.append(figure), path.touch()))
    draw_guidance(result.classes, tmp_path / "plot.png")
    (left, right), lines = drawn[0].axes, result.classes.strengths
    for axes, values in (
        (left, [line.recognition.accuracy for line in lines]),
        (right, [line.evaluation.bits_per_dim for line in lines]),
    ):
        curve, _, _ = axes.containers[0].lines
        np.testing.assert_array_equal(curve.get_xdata(), STRENGTHS)
        np.testing.assert_array_equal(curve.get_ydata(), values)
    ceiling = result.classes.real.accuracy
    assert any(np.unique(line.get_ydata()).tolist() == [ceiling] for line in left.lines if line.get_linestyle() == "--")
    points = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in right.lines if len(line.get_xdata()) == 1}
    assert points == {
        f"the unconditional model: {lines[0].evaluation.bits_per_dim:.3f}": (0, lines[0].evaluation.bits_per_dim),
        f"the model itself: {result.test.bits_per_dim:.3f}": (1, result.test.bits_per_dim),
    }


def test_the_picture_has_a_row_per_strength(finished):
    result, out, _ = finished
    picture = np.asarray(Image.open(out / "samples" / "guidance-samples.png").convert("L"))
    side, height = 64 + 2, 64 + 2 + 13  # with the name of its class below each image
    assert picture.shape == (7 * height + 2, 20 * side + 2)
    tiles = picture[2:, 2:].reshape(7, height, 20, side)[:, :64:8, :, :64:8].transpose(0, 2, 1, 3)
    for row, line in zip(tiles, result.classes.strengths, strict=True):
        assert (row == 255 * line.samples[:20, 0].numpy()).all()


def test_the_classifier_and_the_noise_are_those_of_the_runs_seed(finished):
    result, out, _ = finished
    model, splits = nextpixel.load(out), load(DRAWN_BITS)
    x, recognition = recognise_samples(model, Classifier.fit(splits.train, seed=SEED), SEED)
    assert torch.equal(x, result.classes.strengths[2].samples)
    assert (recognition.found == result.classes.drawn.found).all()


def test_without_condition_dropout_there_is_no_guidance_and_it_says_why(tmp_path):
    result = run(tmp_path / "run", dropout=0.0)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "every training image came with its label (condition dropout 0)" in report
    assert result.classes.strengths == []
    assert "strength |" not in report
    assert len(result.classes.drawn.wanted) == 250
    assert f"**{result.classes.drawn.accuracy:.3f} ± " in report
    assert not list((tmp_path / "run" / "samples").glob("guidance*"))
    fitted = Classifier.fit(load(DataSettings(source="digits", levels=2, binarize="threshold")).train)
    _, again = recognise_samples(nextpixel.load(tmp_path / "run"), fitted, SEED)
    assert (again.found == result.classes.drawn.found).all()


@pytest.mark.parametrize(
    ("model", "dropout"), [({"condition": None}, 0.0), ({"inputs": "embedding"}, 0.2)], ids=["unconditional", "codes"]
)
def test_unconditional_models_and_codes_are_not_judged(model, dropout, tmp_path):
    result = run(tmp_path / "run", DataSettings(source="digits", levels=17), dropout, epochs=1, **model)
    assert result.classes is None
    assert "wanted class" not in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("images", "message"),
    [(striped(1), "all 40 are of class 0"), (striped(101, 202, (1, 11, 11)), "at most 100 classes, but made has 101")],
)
def test_too_few_and_too_many_classes_are_told_in_one_line(images, message, tmp_path):
    model = nextpixel.PixelCNN(images.shape, levels=3, features=4, blocks=1, condition=nextpixel.Labels(images.classes))
    splits = Splits(images, images, images)
    classes, section = judge_classes(model, splits, TrainingSettings(condition_dropout=0.1), tmp_path)
    assert classes is None
    (line,) = section.lines
    assert message in line
    assert section.markdown.strip() == line
    assert section.pictures == list(tmp_path.iterdir()) == []


def test_100_classes_and_names(tmp_path):
    images = striped(100, 300, (1, 10, 10))
    raw = RawImages(images.raw.images, images.raw.labels, [f"kind {k}" for k in range(100)], 3)
    splits = Splits(*[Images(raw, images.settings)] * 3)
    model = nextpixel.PixelCNN(images.shape, levels=3, features=4, blocks=1, condition=nextpixel.Labels(100))
    classes, section = judge_classes(model, splits, TrainingSettings(), tmp_path)
    assert np.bincount(classes.drawn.wanted).tolist() == [2] * 100
    assert re.search(r"^\| kind 99 \| \d\.\d{3} \| 2 \| kind \d+ \(\d\) \|", section.markdown, re.MULTILINE)
