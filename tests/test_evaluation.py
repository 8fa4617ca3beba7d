import csv
import io
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import nn

import nextpixel
from nextpixel.data.images import Images
from nextpixel.errors import InputError
from nextpixel.pictures.grid import brightness
from nextpixel.scoring import baselines
from nextpixel.scoring.baselines import JPEG_XL_EFFORTS, PixelMarginal, all_baselines, jpeg_xl, png, uniform, webp
from nextpixel.scoring.evaluation import Evaluation, evaluate


class Independent(nn.Module):
    """Every number is drawn from one law, or from the law of the image's label; so every likelihood can be added by hand."""

    def __init__(self, law, shape, condition=None):
        super().__init__()
        self.law = nn.Parameter(torch.tensor(law))
        self.frozen = nn.Dropout(0.5)
        self.shape, self.levels, self.condition = shape, self.law.shape[-1], condition
        self.modes = []

    def log_prob(self, x, cond=None, guidance=1.0):
        self.modes.append((self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), len(x)))
        law = self.law if self.condition is None else self.law[cond][:, None, None, None]
        return law.log().expand(*x.shape, -1).gather(-1, x[..., None]).flatten(1).sum(1)


class Fixed:
    """A split held in memory."""

    def __init__(self, x, levels, labels=None):
        self.x, self.levels, self.labels = x, levels, labels
        self.shape = tuple(x.shape[1:])

    spread, names = Images.spread, None

    def __len__(self):
        return len(self.x)

    def __getitems__(self, indices):
        assert isinstance(indices, list)
        return self.x[indices], None if self.labels is None else self.labels[indices]


def images(shape=(5, 2, 3, 4), levels=3, labels=None, seed=0):
    return Fixed(torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed)), levels, labels)


LAW = [0.5, 0.25, 0.25]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_likelihood_is_that_of_the_law(batch_size):
    split, model = images(), Independent(LAW, (2, 3, 4))
    evaluation = evaluate(model, split, batch_size=batch_size)
    bits = [sum(1 if s == 0 else 2 for s in x.flatten().tolist()) for x in split.x]
    np.testing.assert_allclose(evaluation.nats, np.array(bits) * math.log(2), rtol=1e-6)
    assert evaluation.dims == 24
    assert evaluation.bits_per_dim == pytest.approx(np.mean(bits) / 24)
    assert evaluation.nats_per_image == pytest.approx(np.mean(bits) * math.log(2))
    assert evaluation.bits_per_dim_standard_error == pytest.approx(np.std(bits, ddof=1) / math.sqrt(5) / 24)
    assert sum(mode[-1] for mode in model.modes) == 5


def test_labels_are_the_condition_only_of_a_conditional_model():
    labels = torch.tensor([0, 1, 1, 0, 1])
    split = images(labels=labels)
    conditional = Independent([LAW, [0.125, 0.75, 0.125]], (2, 3, 4), condition=nextpixel.Labels(2))
    nats = evaluate(conditional, split).nats
    for n, label in enumerate(labels.tolist()):
        alone = Independent([LAW, [0.125, 0.75, 0.125]][label], (2, 3, 4))
        assert nats[n] == pytest.approx(evaluate(alone, split).nats[n])
    with pytest.raises(InputError, match="no labels"):
        evaluate(conditional, images())


def test_every_module_gets_its_mode_back_and_autocast_is_off():
    model = Independent(LAW, (2, 3, 4))
    model.frozen.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(model, images())
    assert model.modes == [(False, True, False, 5)]
    assert model.training
    assert not model.frozen.training


def test_the_file_has_a_line_per_image(tmp_path):
    evaluation = Evaluation(np.array([1.0, 2.5]), dims=4, labels=np.array([7, 3]))
    evaluation.write_csv(tmp_path / "nats.csv")
    rows = list(csv.DictReader((tmp_path / "nats.csv").read_text().splitlines()))
    assert [(row["index"], row["label"], row["nats"]) for row in rows] == [("0", "7", "1"), ("1", "3", "2.5")]
    assert float(rows[1]["bits_per_dim"]) == pytest.approx(2.5 / 4 / math.log(2))
    Evaluation(np.array([1.0]), dims=4).write_csv(tmp_path / "nats.csv")
    assert (tmp_path / "nats.csv").read_text().splitlines()[0] == "index,nats,bits_per_dim"


def test_one_image_has_no_standard_error():
    assert math.isnan(evaluate(Independent(LAW, (2, 3, 4)), images((1, 2, 3, 4))).bits_per_dim_standard_error)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (images((0, 2, 3, 4)), "empty"),
        (images((5, 1, 3, 4)), r"2 channels .*\(1, 3, 4\)"),
        (images(levels=4), "3 levels.* 4"),
    ],
)
def test_unfit_data_are_refused(split, message):
    with pytest.raises(InputError, match=message):
        evaluate(Independent(LAW, (2, 3, 4)), split)


def test_the_bar_is_for_terminals(capsys):
    evaluate(Independent(LAW, (2, 3, 4)), images())
    assert capsys.readouterr() == ("", "")


def test_uniform():
    assert uniform(2) == 1
    assert uniform(17) == math.log2(17)


def test_the_marginal_is_smoothed_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "BATCH", 2)
    train, test = images(seed=0), images((3, 2, 3, 4), seed=1)
    marginal = PixelMarginal.fit(train)
    bits = []
    for x in test.x:
        for place in np.ndindex(2, 3, 4):
            count = sum(int(y[place] == x[place]) for y in train.x)
            bits.append(-math.log2((count + 0.5) / (5 + 1.5)))
    assert marginal.bits_per_dim(test) == pytest.approx(np.mean(bits), rel=1e-12)
    np.testing.assert_allclose(marginal.pmf.sum(-1), 1)
    marginal.save(tmp_path / "marginal.npz")
    loaded = PixelMarginal.load(tmp_path / "marginal.npz", train.shape, train.levels)
    assert loaded.bits_per_dim(test) == marginal.bits_per_dim(test)


def test_unfit_marginals_are_refused(tmp_path):
    marginal = PixelMarginal.fit(images())
    for other in [images((5, 2, 4, 3)), images(levels=4), images((0, 2, 3, 4))]:
        with pytest.raises(InputError):
            marginal.bits_per_dim(other)
    with pytest.raises(InputError, match="no images"):
        PixelMarginal.fit(images((0, 2, 3, 4)))
    (tmp_path / "text.npz").write_text("no zip")
    marginal.save(tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:100])
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.savez(tmp_path / "floats.npz", counts=np.zeros((1, 1, 1, 2)))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ["text.npz", "cut.npz", "other.npz", "floats.npz", "array.npy", "missing.npz"]:
        with pytest.raises(InputError, match=name):
            PixelMarginal.load(tmp_path / name, (2, 3, 4), 3)


@pytest.mark.parametrize("codec", [png, webp])
@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 4), (1, 7), (1, 17), (1, 256), (3, 2), (3, 256)])
def test_the_codecs_are_lossless_and_count_every_byte(monkeypatch, codec, channels, levels):
    split = images((7, channels, 6, 5), levels)
    files = []
    original = baselines._file

    def kept(picture, **options):
        files.append(original(picture, **options))
        return files[-1]

    monkeypatch.setattr(baselines, "_file", kept)
    single, sheet = codec(split)
    ways = len(files) // 8  # seven single files and one sheet for each way to store
    assert len(files) == 8 * ways
    assert single.bits_per_dim == min(sum(map(len, files[7 * w : 7 * w + 7])) for w in range(ways)) * 8 / split.x.numel()
    assert sheet.bits_per_dim == min(map(len, files[7 * ways :])) * 8 / split.x.numel()
    for way in range(ways):
        for n, data in enumerate(files[7 * way : 7 * way + 7]):
            assert torch.equal(symbols(data, channels, levels), split.x[n])


def symbols(data, channels, levels):
    """Whatever the way to store: equal symbols are equal colours, in rising order."""
    picture = Image.open(io.BytesIO(data))
    values = np.asarray(picture if picture.mode == "P" else picture.convert("RGB"))
    values = values[..., None] if values.ndim == 2 else values
    values = values[..., :channels].transpose(2, 0, 1).astype(int)
    stretched = np.rint(np.arange(levels) * 255 / (levels - 1)).astype(int)
    is_stretched = picture.mode != "P" and values.max() >= levels
    return torch.from_numpy(np.searchsorted(stretched, values) if is_stretched else values)


def test_few_levels_are_packed_into_bits():
    for levels, bits in [(2, 1), (4, 2), (16, 4)]:  # noise has no shorter code; the rest is one byte per row and the header
        sheet = png(images((49, 1, 32, 32), levels))[1]
        assert bits < sheet.bits_per_dim < 1.06 * bits
        assert f"bit depth {bits}" in sheet.note


def test_a_sheet_is_cheaper_than_many_small_files():
    for codec in (png, webp):
        single, sheet = codec(images((50, 1, 8, 8), levels=2))
        assert sheet.bits_per_dim < single.bits_per_dim / 2


def test_sheets_respect_the_largest_side_and_hold_every_image(monkeypatch):
    monkeypatch.setattr(baselines, "SHEET_SIDE", 20)
    pictures = np.arange(1, 12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 9, 1), dtype=np.uint8)
    sheets = baselines._sheets(pictures)
    assert all(max(sheet.shape) <= 20 for sheet in sheets)
    assert sorted(value for sheet in sheets for value in np.unique(sheet) if value) == list(range(1, 12))
    assert sum(int((sheet > 0).sum()) for sheet in sheets) == pictures.size


def test_large_sets_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_FILES", 4)
    split = images((10, 1, 4, 4), levels=2)
    chosen = []
    get = split.__getitems__
    monkeypatch.setattr(split, "__getitems__", lambda indices: chosen.append(indices) or get(indices), raising=False)
    single, sheet = png(split)
    assert chosen == [[0, 2, 5, 7]]
    assert single.note.startswith("4 of 10 images")
    assert sheet.note.startswith("4 of 10 images")


def test_what_cannot_be_written_says_why(monkeypatch):
    for codec, name in ((png, "PNG"), (webp, "WebP")):
        (two,) = codec(images((5, 2, 4, 4)))
        assert (two.bits_per_dim, two.note) == (None, f"no {name} for 2 channels")
        (deep,) = codec(images((5, 1, 4, 4), levels=300))
        assert (deep.bits_per_dim, deep.note) == (None, f"no {name} for 300 levels")
    (wide,) = webp(images((1, 1, 1, 16384), levels=2))
    assert wide.bits_per_dim is None
    assert "16383" in wide.note
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert webp(images((5, 1, 4, 4)))[0].bits_per_dim is None


def test_jpeg_xl_at_the_effort_that_suits_the_images(monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra bench")
    for shape, levels in (((3, 3, 40, 32), 256), ((3, 1, 24, 24), 4)):
        given = images(shape, levels)
        alone, _sheet = jpeg_xl(given)
        pictures = given.__getitems__([0, 1, 2])[0].numpy().astype(np.uint8).transpose(0, 2, 3, 1).squeeze()
        stored = [table[pictures] for table in (np.arange(levels, dtype=np.uint8), brightness(levels))]
        files = [[imagecodecs.jpegxl_encode(x, lossless=True, effort=e) for x in of] for of in stored for e in JPEG_XL_EFFORTS]
        assert alone.bits_per_dim == min(sum(map(len, of_effort)) for of_effort in files) * 8 / pictures.size
        assert (imagecodecs.jpegxl_decode(files[-1][2]) == stored[-1][2]).all()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert jpeg_xl(given)[0].note == "no JPEG XL: install the extra bench"


def test_all_baselines_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # whether or not the extra bench is there
    train, test = images((20, 1, 4, 4), 17), images((10, 1, 4, 4), 17, seed=1)
    lines = all_baselines(PixelMarginal.fit(train), test)
    assert [line.name for line in lines] == [
        "uniform",
        "pixel marginal",
        "PNG, a file per image",
        "PNG, one sheet",
        "WebP, a file per image",
        "WebP, one sheet",
        "JPEG XL",
    ]
    assert all(line.bits_per_dim > 0 for line in lines[:-1])
    with pytest.raises(InputError, match="no images"):
        all_baselines(PixelMarginal.fit(train), images((0, 1, 4, 4), 17))
