"""nextpixel.data: every kind of source, every error message, exact quantisation, reproducible binarisation and splits."""

import hashlib
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from nextpixel.data import raw
from nextpixel.data import tables as hub
from nextpixel.data.arrays import save_symbols
from nextpixel.data.images import Images
from nextpixel.data.raw import RawImages, fixed_uniforms
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load, load_one, load_source
from nextpixel.errors import InputError, Notice

H, W = 5, 7
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> str:
    """Return a path in the shared data, or skip."""
    if not (SHARED / name.split("/")[0]).exists():
        pytest.skip(f"needs {SHARED / name}, which is not part of the repository")
    return str(SHARED / name)


def noise(*shape: int, below: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, below, shape).astype(np.uint8)


def save_picture(file: Path, channels: int = 1, height: int = H, width: int = W, seed: int = 0) -> np.ndarray:
    """Write a picture of noise; return its pixels (C, H, W)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(height, width, channels, seed=seed)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, lossless=True)  # WebP asks for it, others ignore it
    return pixels.transpose(2, 0, 1)


def refuse(settings: DataSettings, *parts: str) -> None:
    """Loading must raise one line that holds all parts."""
    with pytest.raises(InputError) as caught:
        load_source(settings.source, settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def arrays(folder: Path, **named: np.ndarray) -> str:
    np.savez(folder / "a.npz", **named)
    return str(folder / "a.npz")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_read_without_torch():
    code = "import sys, nextpixel.data.settings; print([m for m in ('torch', 'numpy', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"levels": 1}, ("--data.levels is 1", "2 to 65536")),
        ({"levels": 65537}, ("--data.levels is 65537", "2 to 65536")),
        ({"source_levels": 1}, ("--data.source_levels is 1",)),
        ({"levels": 4, "binarize": "fixed"}, ("--data.binarize fixed makes 2 levels", "--data.levels is 4")),
        ({"binarize": "sometimes"}, ("'sometimes'", "stochastic")),
        ({"size": (0, 4)}, ("--data.size is (0, 4)",)),
        ({"validation": 1.0}, ("--data.validation is 1.0",)),
    ],
)
def test_settings_out_of_range(wrong, parts):
    refuse(DataSettings(**wrong), *parts)


# --- sources that do not exist ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["/no/such", "./nothing", "data/missing.npz", "a/b/c", "two words", "missing.parquet"])
def test_no_such_source_is_told_at_once(source, monkeypatch):
    monkeypatch.setattr(hub, "_download", lambda name: pytest.fail("asked the hub"))
    refuse(DataSettings(source=source), repr(source), '"digits"', ".npz, .parquet, .tar or .csv")


def test_empty_source_and_glob_without_match(tmp_path):
    refuse(DataSettings(source=""), "is empty", '"digits"')
    refuse(DataSettings(source=str(tmp_path / "*.parquet")), "no file matches", "*.parquet")


def test_strange_file(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    refuse(DataSettings(source=str(tmp_path / "notes.txt")), "notes.txt", ".npy, .npz, .parquet, .tar or .csv")


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [("png", 1), ("png", 3), ("bmp", 1), ("bmp", 3), ("tif", 1), ("tiff", 3), ("pgm", 1), ("ppm", 3), ("webp", 3)],
)
def test_folder_of_pictures(tmp_path, suffix, channels):
    pixels = save_picture(tmp_path / f"a.{suffix}", channels)
    (tmp_path / "README.md").write_text("not a picture")
    part = load_source(str(tmp_path), DataSettings())["all"]
    assert part.images.shape == (1, channels, H, W)
    assert part.levels == 256
    assert part.labels is None
    np.testing.assert_array_equal(part.images[0], pixels)


def test_class_folders_become_labels(tmp_path):
    expected = [save_picture(tmp_path / name, 3, seed=n) for n, name in enumerate(["ant/b.png", "bee/a.png", "bee/deep/c.png"])]
    save_picture(tmp_path / ".hidden" / "x.png")
    part = load_source(str(tmp_path), DataSettings())["all"]
    np.testing.assert_array_equal(part.images, expected)
    assert part.class_names == ["ant", "bee"]
    assert part.labels.tolist() == [0, 1, 1]


def test_split_folders_number_their_classes_together(tmp_path):
    for n, name in enumerate(["train/ant/a.png", "train/cat/a.png", "val/bee/a.png", "val/cat/a.png", "gallery/cat/a.png"]):
        save_picture(tmp_path / name, seed=n)
    parts = load_source(str(tmp_path), DataSettings())
    assert set(parts) == {"train", "validation", "gallery"}
    assert parts["train"].class_names == parts["validation"].class_names == ["ant", "bee", "cat"]
    assert parts["train"].labels.tolist() == [0, 2]
    assert parts["validation"].labels.tolist() == [1, 2]


def test_folder_forms_that_are_refused(tmp_path):
    refuse(DataSettings(source=str(tmp_path)), "no pictures in", "png")
    save_picture(tmp_path / "loose.png")
    save_picture(tmp_path / "ant" / "a.png")
    refuse(DataSettings(source=str(tmp_path)), "loose.png", "ant")
    save_picture(tmp_path / "train" / "a.png")
    refuse(DataSettings(source=str(tmp_path)), "loose.png", "split folders")
    (tmp_path / "loose.png").unlink()
    save_picture(tmp_path / "val" / "a.png")
    save_picture(tmp_path / "valid" / "a.png")
    refuse(DataSettings(source=str(tmp_path)), "validation split", "val", "valid")


def test_sizes_that_differ_and_their_remedies(tmp_path):
    save_picture(tmp_path / "a.png")
    wide = save_picture(tmp_path / "b.png", height=H + 2, width=W + 4)
    source = str(tmp_path)
    refuse(DataSettings(source=source), "b.png is 7x11", "a.png is 5x7", "--data.size", "--data.crop")
    cropped = load_source(source, DataSettings(crop=(H, W)))["all"].images
    np.testing.assert_array_equal(cropped[1], wide[:, 1:-1, 2:-2])
    refuse(DataSettings(source=source, crop=(6, 7)), "a.png is 5x7", "--data.crop 6x7")
    resized = load_source(source, DataSettings(crop=(4, 6), size=(2, 3)))["all"].images
    assert resized.shape == (2, 1, 2, 3)
    centre = Image.fromarray(wide[0, 1:5, 2:8])
    np.testing.assert_array_equal(resized[1, 0], np.asarray(centre.resize((3, 2), Image.Resampling.LANCZOS)))


def test_gray_beside_colour(tmp_path):
    save_picture(tmp_path / "a.png", 1)
    colour = save_picture(tmp_path / "b.png", 3)
    refuse(DataSettings(source=str(tmp_path)), "b.png is RGB", "a.png is gray", "--data.grayscale true")
    gray = load_source(str(tmp_path), DataSettings(grayscale=True))["all"].images
    luma = colour.transpose(1, 2, 0) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray[1, 0] - luma).max() <= 1


def test_palette_alpha_and_bits(tmp_path):
    source = str(tmp_path)
    Image.fromarray(noise(H, W, 3)).quantize(256).save(tmp_path / "a.gif")
    assert load_source(source, DataSettings())["all"].images.shape == (1, 3, H, W)
    Image.new("RGBA", (W, H), (1, 2, 3, 255)).save(tmp_path / "b.png")
    assert load_source(source, DataSettings())["all"].images[1, :, 0, 0].tolist() == [1, 2, 3]
    Image.new("RGBA", (W, H), (1, 2, 3, 254)).save(tmp_path / "b.png")
    refuse(DataSettings(source=source), "b.png", "transparent")
    Image.new("P", (W, H)).save(tmp_path / "b.png", transparency=0)
    refuse(DataSettings(source=source), "b.png", "transparent")
    Image.new("CMYK", (W, H)).save(tmp_path / "b.jpg")
    (tmp_path / "b.png").unlink()
    with pytest.warns(Notice, match="1 CMYK pictures converted to RGB"):
        assert load_source(source, DataSettings())["all"].images.shape == (2, 3, H, W)


def png16(channels: int) -> bytes:
    """Return a PNG of 16 bits per channel; Pillow writes none in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", W, H, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + noise(W * channels * 2, seed=n).tobytes() for n in range(H))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gray.png", png16(1)),
        ("colour.png", png16(3)),
        ("colour.ppm", b"P6 7 5 65535\n" + noise(H * W * 6).tobytes()),
        ("gray.pgm", b"P5 7 5 4095\n" + noise(H * W * 2, below=16).tobytes()),
    ],
)
def test_sixteen_bits_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refuse(DataSettings(source=str(tmp_path)), name, "more than 8 bits")


@pytest.mark.parametrize("kept", [0, 20, 60])
def test_damaged_picture(tmp_path, kept):
    save_picture(tmp_path / "a.png")
    save_picture(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:kept])
    refuse(DataSettings(source=str(tmp_path)), "cannot read the picture", "b.png")


def test_large_sets_are_decoded_into_a_temporary_file(tmp_path, monkeypatch):
    expected = [save_picture(tmp_path / f"{n}.png", seed=n) for n in range(3)]
    monkeypatch.setattr(raw, "MEMORY_LIMIT", 3 * H * W - 1)
    images = load_source(str(tmp_path), DataSettings())["all"].images
    assert isinstance(images, np.memmap)
    np.testing.assert_array_equal(images, expected)
    monkeypatch.setattr(raw, "MEMORY_LIMIT", 3 * H * W)
    assert not isinstance(load_source(str(tmp_path), DataSettings())["all"].images, np.memmap)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_digits():
    part = load_source("digits", DataSettings(levels=17))["all"]
    assert part.images.shape == (1797, 1, 8, 8)
    assert part.levels == 17
    assert part.images.max() == 16
    assert part.labels[:3].tolist() == [0, 1, 2]
    assert load_source("digits", DataSettings(crop=(4, 6)))["all"].images.shape == (1797, 1, 4, 6)


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((9, H, W), (1, H, W)),
        ((9, 3, H, W), (3, H, W)),
        ((9, H, W, 3), (3, H, W)),
        ((9, H, W, 1), (1, H, W)),
        ((9, 2, H, 3), None),
    ],
)
def test_shapes_of_arrays(tmp_path, stored, seen):
    np.save(tmp_path / "a.npy", noise(*stored))
    images = load_source(str(tmp_path / "a.npy"), DataSettings())["all"].images
    assert images.shape[1:] == (seen or (3, 2, H))
    whole = noise(*stored)
    np.testing.assert_array_equal(images.reshape(9, -1)[:, 0], whole.reshape(9, -1)[:, 0])
    if stored[-1] == 3:
        np.testing.assert_array_equal(images[:, 2], whole[..., 2])


def test_channels_that_may_be_first_or_last_are_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", noise(9, 3, 6, 3))
    refuse(
        DataSettings(source=str(tmp_path / "a.npy")), "(9, 3, 6, 3)", "--data.layout NCHW (3 channels of 6x3) or NHWC (3 of 3x6)"
    )
    shapes = {"NCHW": (9, 3, 6, 3), "NHWC": (9, 3, 3, 6)}
    for layout, shape in shapes.items():
        assert load_source(str(tmp_path / "a.npy"), DataSettings(layout=layout))["all"].images.shape == shape


def test_npy_stays_mapped(tmp_path):
    stored = noise(40, H, W, 3)
    np.save(tmp_path / "a.npy", stored)
    splits = load(DataSettings(source=str(tmp_path / "a.npy"), crop=(3, W)))
    for name in ("train", "validation", "test"):
        assert isinstance(splits[name].raw.images, np.memmap)
    x = splits.validation.tensor()
    np.testing.assert_array_equal(x, stored.transpose(0, 3, 1, 2)[splits.validation.indices][:, :, 1:4])


def test_npz_with_splits_and_labels(tmp_path):
    source = arrays(
        tmp_path,
        train=noise(6, 1, H, W, below=4),
        valid=noise(4, 1, H, W, below=4),
        gallery=noise(3, 1, H, W, below=4),
        train_labels=np.arange(6),
        valid_label=np.arange(4),
        valid_index=np.arange(4),
    )
    parts = load_source(source, DataSettings(levels=4))
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "validation": 4, "gallery": 3}
    assert parts["train"].labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert parts["validation"].labels.tolist() == [0, 1, 2, 3]
    assert parts["gallery"].labels is None
    assert parts["train"].levels == 4


@pytest.mark.parametrize("key", ["images", "x", "data", "codes", "anything"])
def test_npz_without_splits(tmp_path, key):
    part = load_source(arrays(tmp_path, **{key: noise(3, H, W), "y": np.array([2, 0, 1])}), DataSettings())["all"]
    assert part.images.shape == (3, 1, H, W)
    assert part.labels.tolist() == [2, 0, 1]


def test_bools_are_bits(tmp_path):
    np.save(tmp_path / "a.npy", noise(3, H, W, below=2).astype(bool))
    part = load_source(str(tmp_path / "a.npy"), DataSettings(levels=2))["all"]
    assert part.images.max() == 1
    assert Images(part, DataSettings(levels=2)).describe_binarisation() == "values taken as given (2 levels)"


@pytest.mark.parametrize(
    ("named", "parts"),
    [
        ({"x": np.zeros((3, H, W), np.float32)}, ("float32", "integers", "round")),
        ({"x": np.zeros((3, H), np.uint8)}, ("(3, 5)", "(N, C, H, W)")),
        ({"x": np.zeros((0, H, W), np.uint8)}, ("(0, 5, 7)",)),
        ({"a": noise(3, H, W), "b": noise(3, H, W)}, ("a (uint8 (3, 5, 7)), b", "train, validation, test")),
        ({"x": noise(3, H, W), "y": np.arange(2)}, ("(2,)", "3 integers")),
        ({"x": noise(3, H, W), "y": np.zeros(3)}, ("float64", "3 integers")),
        ({"x": noise(3, H, W), "y": np.array([0, -2, 1])}, ("label -2 of image 1",)),
        ({"val": noise(3, H, W), "valid": noise(3, H, W)}, ("validation split",)),
        ({"x": np.full((3, H, W), -1)}, ("value -1", "image 0, channel 0, row 0, column 0", "0 to 255")),
    ],
)
def test_arrays_that_are_refused(tmp_path, named, parts):
    refuse(DataSettings(source=arrays(tmp_path, **named)), "a.npz", *parts)


def test_value_out_of_range_names_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "CHUNK", 2 * H * W)
    x = noise(7, 3, H, W, below=4)
    x[5, 2, 1, 6] = 9
    np.save(tmp_path / "a.npy", x)
    refuse(DataSettings(source=str(tmp_path / "a.npy"), levels=4), "value 9", "image 5, channel 2, row 1, column 6", "0 to 3")
    assert load_source(str(tmp_path / "a.npy"), DataSettings(levels=4, source_levels=10))["all"].levels == 10


def test_settings_that_arrays_cannot_follow(tmp_path):
    source = arrays(tmp_path, x=noise(3, H, W))
    refuse(DataSettings(source=source, size=(2, 3)), "--data.size", "array of symbols")
    refuse(DataSettings(source=source, grayscale=True), "--data.grayscale", "array of symbols")
    refuse(DataSettings(source=source, crop=(H + 1, W)), "5x7", "--data.crop 6x7")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
def test_damaged_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"neither of them")
    refuse(DataSettings(source=str(tmp_path / name)), "cannot read", name)


# --- parquet and the hub ----------------------------------------------------------------------------------------------


def dataset(count: int = 3, channels: int = 3, seed: int = 0, labels: str = "class"):
    """Return a data set in Hugging Face form and its pixels (N, C, H, W)."""
    import datasets

    pixels = noise(count, H, W, channels, seed=seed)
    features = {"img": datasets.Image(), "id": datasets.Value("int64")}
    columns = {"img": [Image.fromarray(p[..., 0] if channels == 1 else p) for p in pixels], "id": list(range(count))}
    if labels == "class":
        features["fine_label"] = datasets.ClassLabel(names=["ant", "bee", "cat"])
        columns["fine_label"] = [n % 3 for n in range(count)]
    if labels == "integer":
        features["label"], columns["label"] = datasets.Value("int32"), [n % 3 + 4 for n in range(count)]
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return table, pixels.transpose(0, 3, 1, 2)


def save_parquet(file: Path, table) -> None:
    """Write what `Dataset.to_parquet` writes, without its progress bar."""
    import pyarrow.parquet as pq

    pq.write_table(table.data.table.replace_schema_metadata(table.features.arrow_schema.metadata), file)


@pytest.fixture
def no_network(monkeypatch):
    def refuse_network(*args, **kwargs):
        raise AssertionError("a look-up in the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse_network)
    monkeypatch.setattr(socket.socket, "connect", refuse_network)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", ["class", "integer", "none"])
@pytest.mark.filterwarnings("ignore:labels of .* become classes 0 to 2")
def test_parquet_file(tmp_path, no_network, channels, labels):
    table, pixels = dataset(300, channels, labels=labels)
    save_parquet(tmp_path / "train.parquet", table)
    part = load_source(str(tmp_path / "train.parquet"), DataSettings())["all"]
    np.testing.assert_array_equal(part.images, pixels)
    assert part.class_names == {"class": ["ant", "bee", "cat"], "integer": ["4", "5", "6"], "none": None}[labels]
    expected = None if labels == "none" else [0, 1, 2]
    assert (None if part.labels is None else part.labels[:3].tolist()) == expected


def test_parquet_folder_and_glob(tmp_path, no_network):
    names = ["train-00000-of-00002", "train-00001-of-00002", "valid", "test_b", "gallery-00000-of-00001"]
    pixels = {}
    for n, name in enumerate(names):
        table, pixels[name] = dataset(n + 2, seed=n)
        save_parquet(tmp_path / f"{name}.parquet", table)
    parts = load_source(str(tmp_path), DataSettings())
    assert {name: len(part) for name, part in parts.items()} == {"train": 5, "validation": 4, "test": 5, "gallery": 6}
    np.testing.assert_array_equal(parts["train"].images, np.concatenate([pixels[name] for name in names[:2]]))
    assert parts["train"].labels.tolist() == [0, 1, 0, 1, 2]
    one = load_source(str(tmp_path / "train-*.parquet"), DataSettings())
    assert list(one) == ["all"]
    assert len(one["all"]) == 5


def test_parquet_files_that_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "train.parquet")
    refuse(DataSettings(source=str(tmp_path)), "train.parquet", "no image column", "a (int64), b (int64)")
    cell = {"bytes": None, "path": None}
    pq.write_table(pa.table({"one": [cell], "two": [cell]}), tmp_path / "train.parquet")
    refuse(DataSettings(source=str(tmp_path)), "several image columns (one, two)")
    pq.write_table(
        pa.table({"image": [cell]}, pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})),
        tmp_path / "train.parquet",
    )
    refuse(DataSettings(source=str(tmp_path)), "image 0", "train.parquet", "missing (null)")
    save_picture(tmp_path / "a.png")
    cells = [{"bytes": (tmp_path / "a.png").read_bytes()}, {"bytes": b"no picture"}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "train.parquet")
    refuse(DataSettings(source=str(tmp_path)), "cannot read the picture image 1", "train.parquet")
    save_parquet(tmp_path / "train-2.parquet", dataset()[0])
    refuse(DataSettings(source=str(tmp_path)), "the columns of", "train-2.parquet", "train.parquet")


def test_hidden_labels_are_no_labels(tmp_path):
    table, _ = dataset()
    column = table.features["fine_label"]
    save_parquet(
        tmp_path / "a.parquet",
        table.remove_columns("fine_label").add_column("fine_label", [-1] * 3).cast_column("fine_label", column),
    )
    assert load_source(str(tmp_path / "a.parquet"), DataSettings())["all"].labels is None


def test_hub_data_set(monkeypatch):
    import datasets
    import huggingface_hub

    tables = {"train": dataset(4, seed=1), "val": dataset(3, seed=2)}
    asked = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: asked.append((name, timeout)))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({k: v[0] for k, v in tables.items()}))
    parts = load_source("owner/name", DataSettings())
    assert asked == [("owner/name", hub.TIMEOUT)]
    np.testing.assert_array_equal(parts["train"].images, tables["train"][1])
    np.testing.assert_array_equal(parts["validation"].images, tables["val"][1])
    assert parts["validation"].labels.tolist() == [0, 1, 2]


def test_hub_out_of_reach(monkeypatch):
    import datasets
    import huggingface_hub

    def unreachable(self, name, timeout):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail("went on without the hub"))
    refuse(DataSettings(source="owner/name"), "'owner/name'", "no route to host", ".npz, .parquet, .tar or .csv")


# --- symbols ----------------------------------------------------------------------------------------------------------


def ramp(levels: int = 256, copies: int = 1) -> RawImages:
    """Return images (copies, 1, 1, levels) that hold every stored value once."""
    return RawImages(np.tile(np.arange(levels, dtype=np.uint8), (copies, 1, 1, 1)), None, None, levels)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 16, 17, 100, 255, 256])
def test_quantisation_is_the_exact_floor(levels):
    x = Images(ramp(), DataSettings(levels=levels)).tensor()
    assert x.dtype == torch.int64
    assert x.flatten().tolist() == [value * levels // 256 for value in range(256)]
    assert set(x.flatten().tolist()) == set(range(levels))


def test_digits_can_be_quantised():
    images = load_one(DataSettings(source="digits", levels=4), "test")
    np.testing.assert_array_equal(images.tensor(), images.raw.images.astype(int) * 4 // 17)
    assert images.describe_binarisation() == "4 levels: floor(x * 4 / 17)"


def test_threshold():
    x = Images(ramp(), DataSettings(levels=2, binarize="threshold")).tensor().flatten()
    assert x.tolist() == [0] * 128 + [1] * 128
    x = Images(ramp(17), DataSettings(levels=2, binarize="threshold")).tensor().flatten()
    assert x.tolist() == [0] * 9 + [1] * 8


@pytest.mark.parametrize(
    ("binarize", "training"), [("fixed", True), ("fixed", False), ("stochastic", True), ("stochastic", False)]
)
def test_drawn_bits_have_the_intensity_as_mean(binarize, training):
    torch.manual_seed(0)
    copies = 2000
    x = Images(ramp(copies=copies), DataSettings(levels=2, binarize=binarize), training=training).tensor().double()
    mean, p = x.mean(0).flatten(), torch.arange(256) / 255
    assert mean[0] == 0
    assert mean[255] == 1
    score = (mean - p)[1:255] / (p * (1 - p) / copies).sqrt()[1:255]
    assert score.abs().max() < 4.5
    assert 0.8 < score.std() < 1.2
    bits = x[:, 0, 0, 64:192] - p[64:192]  # neither columns nor images may go together
    assert (bits[:, 1:] * bits[:, :-1]).mean().abs() < 0.005
    assert (bits[1:] * bits[:-1]).mean().abs() < 0.005


def test_fixed_bits_depend_on_seed_split_and_image_only():
    def images(**other):
        split = other.pop("split", "train")
        return Images(ramp(copies=9), DataSettings(levels=2, binarize="fixed", **other), training=True, split=split)

    x = images().tensor()
    assert torch.equal(x, images().tensor())
    order = [7, 2, 2, 0]
    assert torch.equal(images().tensor(order), x[order])
    assert torch.equal(images()[5][0], x[5])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(x, images(seed=1).tensor())
    assert not torch.equal(x, images(split="test").tensor())


def splitmix64(state: int, count: int) -> list[int]:
    """Return the first outputs of SplitMix64, in Python's unbounded integers."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_fixed_numbers_are_splitmix64_and_never_change():
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]  # the published first output
    start = int.from_bytes(hashlib.blake2b(b"0/train", digest_size=8).digest(), "little")
    expected = torch.tensor([(z >> 11) * 2.0**-53 for z in splitmix64(start, 12)], dtype=torch.float64).view(4, 3)
    assert torch.equal(fixed_uniforms(0, "train", np.array([3, 1]), 3), expected[[3, 1]])


def test_stochastic_bits_are_redrawn_in_training_only():
    settings = DataSettings(levels=2, binarize="stochastic")
    training, evaluation = Images(ramp(), settings, training=True), Images(ramp(), settings)
    assert not torch.equal(training.tensor(), training.tensor())
    assert torch.equal(evaluation.tensor(), evaluation.tensor())
    torch.manual_seed(3)
    first = training.tensor()
    torch.manual_seed(3)
    assert torch.equal(first, training.tensor())


@pytest.mark.parametrize("binarize", ["none", "fixed", "stochastic", "threshold"])
def test_bits_are_taken_as_given(tmp_path, binarize):
    x = noise(30, 2, H, W, below=2)
    images = load_one(DataSettings(source=arrays(tmp_path, x=x), levels=2, binarize=binarize), "test")
    np.testing.assert_array_equal(images.tensor(), x)
    assert images.describe_binarisation() == "values taken as given (2 levels)"


def test_descriptions():
    def describe(training=False, **settings):
        return Images(ramp(), DataSettings(**settings), training=training).describe_binarisation()

    assert describe() == "values taken as given (256 levels)"
    assert describe(levels=2) == "2 levels: floor(x * 2 / 256)"
    assert describe(levels=2, binarize="threshold") == "thresholded at half of the range: 1 where x >= 128 of 255"
    assert "seed 5 (not Larochelle's)" in describe(levels=2, binarize="fixed", seed=5)
    assert "redrawn at every access" in describe(levels=2, binarize="stochastic", training=True)
    assert "drawn once with seed 0" in describe(levels=2, binarize="stochastic")


def test_flip_turns_half_of_the_training_images():
    torch.manual_seed(0)
    part, settings = ramp(copies=400), DataSettings(flip=True)
    plain, x = torch.arange(256), Images(part, settings, training=True).tensor()[:, 0, 0]
    flipped = (x == plain.flip(0)).all(1)
    assert ((x == plain).all(1) ^ flipped).all()
    assert 160 < flipped.sum() < 240
    assert (Images(part, settings).tensor() == plain).all()


def test_batches_of_a_loader():
    settings = DataSettings(source="digits", levels=17)
    images = load(settings).train
    batches = list(DataLoader(images, batch_size=500, collate_fn=lambda batch: batch))
    x, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(x, images.tensor())
    assert torch.equal(labels, images.labels)
    one, label = images[-1]
    assert torch.equal(one, x[-1])
    assert label == labels[-1]
    assert torch.equal(images.tensor(slice(3, 9, 2)), x[3:9:2])
    assert images.classes == 10
    with pytest.raises(IndexError):
        images[len(images)]


def test_without_labels():
    images = Images(ramp(copies=4), DataSettings())
    assert images[2][1] == -1
    assert images.__getitems__([0, 1])[1] is None
    assert images.classes is None


def test_uint16_symbols(tmp_path):
    x = np.random.default_rng(0).integers(0, 8192, (5, H, W)).astype(np.uint16)
    images = load_one(DataSettings(source=arrays(tmp_path, codes=x), levels=8192), "test")
    np.testing.assert_array_equal(images.tensor()[:, 0], x)


# --- splits -----------------------------------------------------------------------------------------------------------


def numbered(count: int, first: int = 0) -> np.ndarray:
    """Return images (count, H, W) that are recognised by their first pixel."""
    x = np.zeros((count, H, W), np.uint8)
    x[:, 0, 0] = np.arange(first, first + count)
    return x


def numbers(images: Images) -> list[int]:
    return images.tensor()[:, 0, 0, 0].tolist()


def test_splits_are_carved_out_of_one_part(tmp_path):
    settings = DataSettings(source=arrays(tmp_path, x=numbered(100)), validation=0.15, test=0.25)
    splits = load(settings)
    assert [len(splits[name]) for name in splits] == [58, 13, 29]
    by_position = load(replace(settings, split_by="position"))
    assert [len(by_position[name]) for name in splits] == [60, 15, 25]
    kept = {name: numbers(splits[name]) for name in splits}
    assert sorted(kept["train"] + kept["validation"] + kept["test"]) == list(range(100))
    assert all(ascending == sorted(ascending) for ascending in kept.values())
    assert {name: numbers(load(settings)[name]) for name in splits} == kept
    assert numbers(load(DataSettings(source=settings.source, seed=1)).test) != kept["test"]
    assert kept["test"] != list(range(25))
    assert splits.train.raw is splits.test.raw
    assert splits.train.training
    assert not splits.validation.training
    assert not splits.test.training


def test_only_missing_splits_are_carved(tmp_path):
    source = arrays(tmp_path, train=numbered(50), test=numbered(7, 50), gallery=numbered(3, 60))
    splits = load(DataSettings(source=source))
    assert numbers(splits.test) == list(range(50, 57))
    assert sorted(numbers(splits.train) + numbers(splits.validation)) == list(range(50))
    assert len(splits.validation) == 4
    assert list(splits) == ["train", "validation", "test", "gallery"]
    assert numbers(splits["gallery"]) == [60, 61, 62]
    assert splits["val"] is splits.validation
    with pytest.raises(InputError, match=re.escape("no split 'probe': it has train, validation, test, gallery")):
        splits["probe"]


def test_complete_sources_are_left_whole(tmp_path):
    source = arrays(tmp_path, train=numbered(9), valid=numbered(2, 9), test=numbered(3, 20))
    splits = load(DataSettings(source=source))
    assert [numbers(splits[name]) for name in splits] == [list(range(9)), [9, 10], [20, 21, 22]]


def test_load_one(tmp_path):
    source = arrays(tmp_path, train=numbered(9), valid=numbered(2, 9))
    assert numbers(load_one(DataSettings(source=source), "validation")) == [9, 10]
    assert numbers(load_one(DataSettings(source=source), "valid")) == [9, 10]
    with pytest.raises(InputError, match="no split 'test': it has train, validation"):
        load_one(DataSettings(source=source), "test")
    assert len(load_one(DataSettings(source=arrays(tmp_path, x=numbered(9))), "test")) == 9


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"train": noise(9, H, W), "test": noise(9, W, H)}, r"differ in shape .*train has \(1, 5, 7\) and test has \(1, 7, 5\)"),
        ({"valid": noise(9, H, W), "test": noise(9, H, W)}, "no train split: it has validation, test"),
        (
            {"x": noise(2, H, W)},
            r"2 training images leave none for train \(--data.test 0.1, --data.validation 0.1\)",
        ),
        ({"x": np.zeros((30, H, W), np.uint8)}, "30 training images, of which 1 differ, and equal .* expected at least 3"),
    ],
)
def test_splits_that_are_refused(tmp_path, named, message):
    with pytest.raises(InputError, match=message):
        load(DataSettings(source=arrays(tmp_path, **named)))


def test_splits_with_other_classes(tmp_path):
    table, _ = dataset()
    save_parquet(tmp_path / "train.parquet", table)
    import datasets

    save_parquet(
        tmp_path / "test.parquet", table.cast_column("fine_label", datasets.ClassLabel(names=["ant", "bee", "cow", "dog"]))
    )
    with pytest.raises(InputError, match=r"name different classes .*: test has 4 and train has 3"):
        load(DataSettings(source=str(tmp_path), split_by="position"))
    splits = load(DataSettings(source=str(tmp_path)))
    assert splits.train.class_names == splits.test.class_names == ["ant", "bee", "cat", "cow", "dog"]
    assert splits.train.raw.labels[:3].tolist() == [0, 1, 2]
    assert splits.test.raw.labels[:3].tolist() == [0, 1, 3]


@pytest.mark.parametrize("names", [["train-0-of-2", "train-1-of-2"], ["train", "test"]])
def test_parquet_files_that_name_classes_in_another_order_are_matched_by_name(tmp_path, names):
    import datasets

    table, _ = dataset()
    save_parquet(tmp_path / f"{names[0]}.parquet", table)
    words = ["cat", "ant", "bee"]
    own = [["ant", "bee", "cat"][k] for k in table["fine_label"]]
    other = table.remove_columns("fine_label").add_column("fine_label", [words.index(word) for word in own])
    save_parquet(tmp_path / f"{names[1]}.parquet", other.cast_column("fine_label", datasets.ClassLabel(names=words)))
    parts = load_source(str(tmp_path), DataSettings())
    found = [part.class_names[k] for part in parts.values() for k in part.labels]
    assert found == own + own


def save_classes(folder, names, number=3):
    for n, name in enumerate(names):
        for k in range(number):
            save_picture(folder / name / f"{k}.png", seed=100 * n + k)


@pytest.mark.parametrize("nested", ["", "archive/", "a/b/"])
def test_official_splits_are_found_at_any_depth(tmp_path, nested):
    save_classes(tmp_path, [f"{nested}{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")])
    parts = load_source(str(tmp_path), DataSettings())
    assert {name: (len(part), part.class_names) for name, part in parts.items()} == {
        "train": (6, ["cat", "dog"]),
        "test": (6, ["cat", "dog"]),
    }


def test_pictures_outside_of_nested_splits_are_refused(tmp_path):
    save_classes(tmp_path, ["archive/train/cat", "archive/test/cat", "more/cat"])
    refuse(DataSettings(source=str(tmp_path)), "has split folders", "outside of them", "rename")


def test_numeric_class_folders_sort_as_numbers_and_a_subset_keeps_its_numbers(tmp_path):
    save_classes(tmp_path / "all", [str(k) for k in range(12)], 1)
    raw = load_source(str(tmp_path / "all"), DataSettings())["all"]
    assert raw.class_names == [str(k) for k in range(12)]
    assert raw.names[2] == "2/0.png"
    save_classes(tmp_path / "few", ["10", "2"], 1)
    few = load_source(str(tmp_path / "few"), DataSettings(classes=raw.class_names))["all"]
    assert few.labels.tolist() == [2, 10]
    save_classes(tmp_path / "strange", ["2", "cat"], 1)
    refuse(DataSettings(source=str(tmp_path / "strange"), classes=raw.class_names), "classes that the run does not know (cat)")


@pytest.mark.parametrize(("values", "classes"), [([1, 2, 3, 1], 3), ([0, 5, 9, 5], 3), ([7, 7, 7, 7], 1)])
def test_labels_with_gaps_are_compacted_with_a_line(tmp_path, values, classes):
    source = arrays(tmp_path, images=numbered(4), labels=np.array(values))
    with pytest.warns(Notice, match="become classes 0 to"):
        raw = load_source(source, DataSettings())["all"]
    assert [raw.class_names[k] for k in raw.labels] == [str(value) for value in values]
    assert Images(raw, DataSettings()).classes == classes


def test_very_many_label_values_are_no_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("nextpixel.data.classes.MOST_CLASSES", 3)
    source = arrays(tmp_path, images=numbered(4), labels=np.array([3, 999, 10**9, 5]))
    with pytest.warns(Notice, match="4 values of labels .* are no classes"):
        assert load_source(source, DataSettings())["all"].labels is None


@pytest.mark.parametrize("kind", ["folder", "array"])
@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_an_image_stays_in_its_split_when_others_come_and_go(tmp_path, kind, change):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 1, 5, 7), dtype=np.uint8)

    def tests(which, names):
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        where.mkdir()
        if kind == "array":
            return {test.tobytes() for test in load(DataSettings(source=arrays(where, x=pictures[which]))).test.tensor().numpy()}
        for k, name in zip(which, names, strict=True):
            Image.fromarray(pictures[k, 0]).save(where / name)
        return {test.tobytes() for test in load(DataSettings(source=str(where))).test.tensor().numpy()}

    def key(k):
        return pictures[k].astype(np.int64).tobytes()

    names = [f"{k:03d}.png" for k in range(60)]
    before = tests(list(range(1, 60)), names[1:])
    which = {"added": list(range(60)), "removed": list(range(2, 60)), "renamed": list(range(1, 60))}[change]
    labels = [names[k] if change != "renamed" or k != 1 else "zzz.png" for k in which]
    moved = {key(0), key(1)}
    assert len(before) >= 3
    assert tests(which, labels) - moved == before - moved


# --- the progress bar -------------------------------------------------------------------------------------------------


def test_progress_goes_to_a_terminal_only(tmp_path, monkeypatch, capsys):
    save_picture(tmp_path / "a.png")
    load_source(str(tmp_path), DataSettings(), progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    load_source(str(tmp_path), DataSettings(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoding" in err


# --- real data --------------------------------------------------------------------------------------------------------


def test_mnist(no_network):
    source = shared("mnist")
    splits = load(DataSettings(source=source, levels=2, binarize="stochastic"))
    train, validation, test = (len(splits[name]) for name in splits)
    assert (train + validation, test) == (60000, 8000)
    assert abs(validation - 6000) < 4 * (60000 * 0.1 * 0.9) ** 0.5  # four standard deviations of the hash
    assert splits.train.shape == (1, 28, 28)
    assert splits.train.class_names == [str(n) for n in range(10)]
    assert torch.bincount(splits.train.labels, minlength=10).min() > 4500
    mean = splits.train.tensor(slice(0, 10000)).double().mean()
    assert abs(mean - 0.1307) < 0.002  # the mean intensity of MNIST's training images


def test_binarized_mnist():
    splits = load(DataSettings(source=shared("binarized_mnist/binarized_mnist.npz"), levels=2))
    assert [len(splits[name]) for name in splits] == [50000, 10000, 10000]
    assert splits.train.shape == (1, 28, 28)
    assert splits.train.labels is None
    assert torch.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar10_glob(no_network):
    part = load_source(shared("cifar10/train-00001-*.parquet"), DataSettings())["all"]
    assert part.images.shape == (15000, 3, 32, 32)
    assert part.class_names[0] == "airplane"
    assert len(np.unique(part.labels)) == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", 5),
        ("levels", "x"),
        ("levels", None),
        ("levels", True),
        ("levels", 4.5),
        ("size", 8),
        ("size", [8, "8"]),
        ("crop", [8]),
        ("grayscale", "no"),
        ("binarize", ["none"]),
        ("embedding_of", "both"),
        ("validation", "half"),
    ],
)
def test_settings_of_another_type_are_one_line(name, value):
    with pytest.raises(InputError) as error:
        DataSettings(**{name: value}).check()
    assert str(error.value).startswith(f"--data.{name} is {value!r}: expected ")
    assert "\n" not in str(error.value)


def test_settings_may_be_numbers_of_numpy():
    DataSettings(levels=np.int64(4), validation=np.float32(0.5), size=[np.uint8(3), 4]).check()


# --- layouts that other programs write --------------------------------------------------------------------------------


def symbols(count: int, below: int = 256, seed: int = 0) -> np.ndarray:
    return noise(count, H, W, below=below, seed=seed)


@pytest.mark.parametrize(
    ("images", "labels", "column"),
    [
        ("x_{}", "y_{}", False),
        ("X_{}", "Y_{}", False),
        ("{}_images", "{}_labels", True),
        ("{}_x", "{}_y", False),
        ("{}_data", "{}_targets", True),
        ("{}", "{}_labels", False),
    ],
)
@pytest.mark.parametrize("names", [("train", "test"), ("train", "val", "test")])
def test_npz_that_name_splits_and_kinds(tmp_path, images, labels, column, names):
    stored = {name: (symbols(4 + n, seed=n), np.arange(4 + n)) for n, name in enumerate(names)}
    named = {images.format(name): x for name, (x, _) in stored.items()}
    named |= {labels.format(name): y[:, None] if column else y for name, (_, y) in stored.items()}
    parts = load_source(arrays(tmp_path, **named), DataSettings())
    assert list(parts) == ["validation" if name == "val" else name for name in names]
    for part, (x, y) in zip(parts.values(), stored.values(), strict=True):
        np.testing.assert_array_equal(part.images[:, 0], x)
        np.testing.assert_array_equal(part.labels, y)


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("name", ["filenames", "paths", "meta", "class_names"])
def test_objects_in_a_npz_are_left_alone(tmp_path, name, splits):
    key, x = "x_train" if splits else "images", symbols(3)
    objects = np.array(["a.png", None, {"b": 1}], dtype=object)
    parts = load_source(arrays(tmp_path, **{name: objects, key: x}), DataSettings())
    np.testing.assert_array_equal(parts["all"].images[:, 0], x)


def test_objects_that_are_needed_are_named(tmp_path):
    objects = np.empty(3, dtype=object)
    refuse(DataSettings(source=arrays(tmp_path, images=objects)), "a.npz (images)", "Python objects", "astype")
    with pytest.warns(Notice, match="the labels y are Python objects"):
        part = load_source(arrays(tmp_path, x=symbols(3), y=np.array(["a", "b", "a"], object)), DataSettings())["all"]
    assert part.labels is None


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (np.array(["cat", "ant", "cat"]), [1, 0, 1], ["ant", "cat"]),
        (np.array([b"cat", b"ant", b"cat"]), [1, 0, 1], ["ant", "cat"]),
        (np.eye(4)[[3, 0, 2]], [3, 0, 2], ["0", "1", "2", "3"]),
        (np.array([[2], [0], [1]], np.uint8), [2, 0, 1], ["0", "1", "2"]),
    ],
)
def test_labels_as_they_are_stored(tmp_path, labels, numbers, names):
    part = load_source(arrays(tmp_path, x=symbols(3), y=labels), DataSettings())["all"]
    assert (part.labels.tolist(), part.class_names) == (numbers, names)


def test_several_labels_and_other_arrays_are_left_alone_with_a_word(tmp_path):
    source = arrays(tmp_path, images=symbols(3), labels=np.array([[1, 1], [0, 1], [0, 0]]))
    with pytest.warns(Notice, match=r"several for each image, int64 \(3, 2\)"):
        assert load_source(source, DataSettings())["all"].labels is None
    source = arrays(tmp_path, images=symbols(3), masks=symbols(3))
    with pytest.warns(Notice, match=r"left alone: masks \(uint8 \(3, 5, 7\)\)"):
        load_source(source, DataSettings())


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((9, 3, 3, 3), "NCHW"),
        ((9, 1, 6, 1), "NHWC"),
        ((9, 6, 7, 4), "NHWC"),
        ((9, 4, 4, 4), "NHWC"),
        ((9, 12, 6, 7), "NCHW"),
        ((9, 6, 7, 12), "NHWC"),
        ((6, 7, 3), "HWC"),
        ((6, 7, 3), "NHW"),
        ((2, 9, 6, 7, 3), "NTHWC"),
        ((2, 9, 6, 7), "TNHW"),
        ((6, 7, 3, 9), "HWCN"),
        ((3, 6, 7), "CHW"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_layouts_that_shapes_do_not_tell(tmp_path, shape, layout, kind):
    x = noise(*shape)
    np.save(tmp_path / "a.npy", x)
    source = str(tmp_path / "a.npy") if kind == "npy" else arrays(tmp_path, images=x)
    if layout not in ("CHW", "HWCN"):
        refuse(DataSettings(source=source), str(shape), "--data.layout")
    images = load_source(source, DataSettings(layout=layout))["all"].images
    outer = [letter for letter in layout if letter in "NT"]
    expected = np.einsum(f"{layout}->{''.join(outer)}{'C' * ('C' in layout)}HW", x)
    sizes = dict(zip(layout, shape, strict=True))
    np.testing.assert_array_equal(images, expected.reshape(-1, sizes.get("C", 1), sizes["H"], sizes["W"]))


@pytest.mark.parametrize(("layout", "repeat"), [("NTHW", lambda y: y.repeat(3)), ("TNHW", lambda y: np.tile(y, 3))])
def test_frames_have_the_label_of_their_clip(tmp_path, layout, repeat):
    x, y = noise(*((2, 3) if layout[0] == "N" else (3, 2)), H, W), np.array([1, 0])
    part = load_source(arrays(tmp_path, images=x, labels=y), DataSettings(layout=layout))["all"]
    assert part.labels.tolist() == repeat(y).tolist()


@pytest.mark.parametrize("layout", ["", "NH", "NHHW", "nhwc", "NXHW", "N,H,W"])
def test_a_layout_of_other_letters(layout):
    refuse(DataSettings(layout=layout), "--data.layout", "as NHWC")


def test_a_layout_of_another_length(tmp_path):
    refuse(DataSettings(source=arrays(tmp_path, x=symbols(3)), layout="NCHW"), "(3, 5, 7)", "--data.layout NCHW expects 4")


@pytest.mark.parametrize(("largest", "stored"), [(200, 256), (1000, 1024), (4000, 4096), (16000, 16384), (65535, 65536)])
def test_values_beyond_the_levels_name_the_way_out(tmp_path, largest, stored):
    x = np.zeros((20, H, W), np.uint16)
    x[3, 2, 1] = largest
    source = arrays(tmp_path, images=x)
    refuse(DataSettings(source=source, levels=4), f"value {largest}", f"--data.source_levels {stored}")
    images = load(DataSettings(source=source, levels=4, source_levels=stored)).train
    assert images[0][0].max() <= 3
    assert load_source(source, DataSettings(levels=65536))["all"].images.max() == largest


# --- tables whose columns are not in Hugging Face form


def png_bytes(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def table_of(kind: str, x: np.ndarray, labels: list, name: str = "image"):
    """An Arrow table with images (N, H, W) in one of many forms."""
    import datasets
    import pyarrow as pa

    if kind.startswith("Array"):
        inner = x[..., None].repeat(3, -1) if kind == "Array3D" else x
        feature = getattr(datasets, kind)(shape=inner.shape[1:], dtype="uint8")
        features = datasets.Features({name: feature, "label": datasets.Value("int64")})
        made = datasets.Dataset.from_dict({name: list(inner), "label": labels}, features=features)
        return made.data.table.replace_schema_metadata(made.features.arrow_schema.metadata)
    files = [png_bytes(one) for one in x]
    column = {
        "binary": pa.array(files, pa.binary()),
        "large_binary": pa.array(files, pa.large_binary()),
        "struct": pa.array([{"bytes": file} for file in files]),
        "lists": pa.array(x.tolist(), pa.list_(pa.list_(pa.uint8()))),
        "wide_lists": pa.array(x.tolist(), pa.list_(pa.list_(pa.int64()))),
        "fixed_lists": pa.array(x.tolist(), pa.list_(pa.list_(pa.int32(), W), H)),
    }[kind]
    return pa.table({name: column, "label": labels})


KINDS = ["binary", "large_binary", "struct", "Array2D", "Array3D", "lists", "wide_lists", "fixed_lists"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [[1, 0, 2], ["b", "a", "c"]])
@pytest.mark.parametrize("name", ["image", "jpg", "anything"])
def test_columns_of_pictures_in_any_form(tmp_path, kind, labels, name):
    import pyarrow.parquet as pq

    if kind.startswith("Array") and isinstance(labels[0], str):
        labels = [1, 0, 2]
    x = symbols(3)
    pq.write_table(table_of(kind, x, labels, name), tmp_path / "a.parquet")
    part = load_source(str(tmp_path / "a.parquet"), DataSettings())["all"]
    np.testing.assert_array_equal(part.images[:, 0], x)
    assert part.labels.tolist() == [1, 0, 2]
    assert part.class_names == (["a", "b", "c"] if isinstance(labels[0], str) else ["0", "1", "2"])


@pytest.mark.parametrize(
    "names", [("00000", "00001"), ("part-0", "part-1"), ("data_a", "data_b"), ("train-0", "train-1"), ("x.1", "y")]
)
@pytest.mark.parametrize("other", ["binary", "large_binary", "struct"])
def test_shards_of_any_name_and_of_compatible_types(tmp_path, names, other):
    import pyarrow as pa
    import pyarrow.parquet as pq

    x, y = symbols(3), symbols(2, seed=1)
    pq.write_table(table_of("binary", x, pa.array([1, 0, 2], pa.int64())), tmp_path / f"{names[0]}.parquet")
    pq.write_table(table_of(other, y, pa.array([1, 0], pa.uint8())), tmp_path / f"{names[1]}.parquet")
    part = load_source(str(tmp_path), DataSettings())["all"]
    np.testing.assert_array_equal(part.images[:, 0], np.concatenate([x, y]))
    assert part.labels.tolist() == [1, 0, 2, 1, 0]


def test_shards_that_order_their_classes_differently_are_matched_by_name(tmp_path):
    import datasets

    for n, names in enumerate((["ant", "bee"], ["bee", "cat", "ant"])):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        pictures = [Image.fromarray(x) for x in symbols(len(names))]
        made = datasets.Dataset.from_dict({"image": pictures, "label": list(range(len(names)))}, features=features)
        save_parquet(tmp_path / f"{n}.parquet", made)
    part = load_source(str(tmp_path), DataSettings())["all"]
    assert part.class_names == ["ant", "bee", "cat"]
    assert part.labels.tolist() == [0, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        ([[[1, 2], [3]]], ("image 0 of", "rows of one length")),
        ([[[1, 2]], [[1], [2]]], ("image 1 of", "(2, 1)", "(1, 2)")),
        ([[[1, None]]], ("image 0 of", "none of them missing")),
        (["a.png"], ("image (string)", "expected pictures, binary files")),
    ],
)
def test_columns_that_are_no_images(tmp_path, cells, parts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    refuse(DataSettings(source=str(tmp_path / "a.parquet")), "a.parquet", *parts)


@pytest.mark.parametrize("splits", [None, ("train", "test"), ("train", "valid", "test")])
def test_folders_that_save_to_disk_wrote(tmp_path, no_network, splits):
    import datasets

    datasets.disable_progress_bars()
    made = {name: dataset(4 + n, seed=n) for n, name in enumerate(splits or ("all",))}
    tables = {name: table for name, (table, _) in made.items()}
    (datasets.DatasetDict(tables) if splits else tables["all"]).save_to_disk(str(tmp_path / "saved"))
    parts = load_source(str(tmp_path / "saved"), DataSettings())
    for (_, pixels), part in zip(made.values(), parts.values(), strict=True):
        np.testing.assert_array_equal(part.images, pixels)
        assert part.class_names == ["ant", "bee", "cat"]
    (next((tmp_path / "saved").rglob("state.json"))).write_text("{")
    refuse(DataSettings(source=str(tmp_path / "saved")), "cannot read", "save_to_disk")


# --- WebDataset, tables of paths, MVTec


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))


@pytest.mark.parametrize("labels", ["cls", "json", "names", "none"])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
@pytest.mark.parametrize("shards", [1, 2])
def test_webdataset(tmp_path, labels, ending, shards):
    x, y = symbols(6), [2, 0, 1, 1, 0, 2]
    for shard in range(shards):
        members = {}
        for n in range(shard * 6 // shards, (shard + 1) * 6 // shards):
            name = f"{n:04d}"
            members[f"{name}.png"] = png_bytes(x[n])
            if labels in ("cls", "names"):
                members[f"{name}.cls"] = str(y[n] if labels == "cls" else "abc"[y[n]]).encode()
            if labels == "json":
                members[f"{name}.json"] = b'{"label": %d, "caption": "it"}' % y[n]
        write_tar(tmp_path / f"shard-{shard:06d}.{ending}", members)
    sources = [str(tmp_path), str(tmp_path / f"*.{ending}")] + [str(tmp_path / f"shard-000000.{ending}")] * (shards == 1)
    for source in sources:
        part = load_source(source, DataSettings())["all"]
        np.testing.assert_array_equal(part.images[:, 0], x)
        assert (None if part.labels is None else part.labels.tolist()) == (None if labels == "none" else y)
        assert part.class_names == {"names": ["a", "b", "c"], "none": None}.get(labels, ["0", "1", "2"])
        assert part.names == [f"{n:04d}.png" for n in range(6)]


def test_webdataset_splits_and_what_it_leaves_alone(tmp_path):
    x = symbols(3)
    for name in ("train-0", "train-1", "val-0"):
        write_tar(
            tmp_path / f"{name}.tar", {"0.png": png_bytes(x[0]), "0.txt": b"a cat", "1.png": png_bytes(x[1]), "2.cls": b"1"}
        )
    with pytest.warns(Notice, match=r"left alone: 1 \.txt, 1 without a picture"):
        parts = load_source(str(tmp_path), DataSettings())
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "validation": 2}


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        ({"a.txt": b"x"}, ("no pictures in", "0000.png")),
        ({"0.png": b"no", "0.cls": b"1"}, ("cannot read the picture 0.png of",)),
        ({"0.png": b"PNG", "0.jpg": b"PNG"}, ("0.png and 0.jpg for one sample",)),
        ({"0.png": b"PNG", "0.cls": b"1", "1.png": b"PNG"}, ("1 of 2 images of", "have no label")),
        ({"0.png": b"PNG", "0.json": b"{"}, ("(0): its .json is damaged",)),
        ({"cat/0.png": b"PNG", "dog/0.png": b"PNG"}, ("archive of folders (dog, ...)", "unpack it")),
    ],
)
@pytest.mark.filterwarnings("ignore::nextpixel.errors.Notice")
def test_tars_that_are_refused(tmp_path, members, parts):
    picture = png_bytes(symbols(1)[0])
    write_tar(tmp_path / "a.tar", {name: picture if content == b"PNG" else content for name, content in members.items()})
    refuse(DataSettings(source=str(tmp_path / "a.tar")), "a.tar", *parts)


@pytest.mark.parametrize("kept", [0, 300, 700])
def test_a_damaged_tar(tmp_path, kept):
    write_tar(tmp_path / "b.tar", {"0.png": png_bytes(symbols(1)[0])})
    (tmp_path / "a.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:kept])
    refuse(DataSettings(source=str(tmp_path / "a.tar")), "a.tar")


@pytest.mark.parametrize("label", [None, "label", "class"])
@pytest.mark.parametrize("path", ["path", "filename", "image", "anything"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_of_paths(tmp_path, label, path, suffix):
    x = [save_picture(tmp_path / "pictures" / f"{n}.png", seed=n) for n in range(4)]
    names = ["dog", "cat", "dog", "ant"]
    rows = [[path, *([label] if label else [])]]
    rows += [[f"pictures/{n}.png", *([names[n]] if label else [])] for n in range(4)]
    (tmp_path / f"a.{suffix}").write_text("".join(("," if suffix == "csv" else "\t").join(row) + "\n" for row in rows))
    part = load_source(str(tmp_path / f"a.{suffix}"), DataSettings())["all"]
    np.testing.assert_array_equal(part.images, x)
    assert part.class_names == (["ant", "cat", "dog"] if label else None)
    assert (None if part.labels is None else part.labels.tolist()) == ([2, 1, 2, 0] if label else None)


def test_tables_of_paths_with_splits_and_numbers(tmp_path):
    for n in range(4):
        save_picture(tmp_path / f"{n}.png", seed=n)
    rows = ["path,label,split,size,age"] + [f"{n}.png,{n % 2},{'val' if n == 3 else 'train'},{n}.5,7" for n in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    with pytest.warns(Notice, match="left alone: the columns size, age"):
        parts = load_source(str(tmp_path / "a.csv"), DataSettings())
    assert {name: part.labels.tolist() for name, part in parts.items()} == {"train": [0, 1, 0], "validation": [1]}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("no column of picture files",)),
        ("path,label\n", ("no column of picture files",)),
        ("a,b\n1,2\n", ("no column of picture files among a, b",)),
        ("path\nmissing.png\n", ("lists missing.png, which is no file",)),
        ("path,label\n0.png,1\n0.png\n", ("row 3 of", "1 columns: expected 2")),
        ("path,label\n0.png,1\n0.png,\n", ("1 of 2 images of", "have no label")),
        ("path,label\n0.png,-1\n", ("label -1",)),
    ],
)
def test_tables_that_are_refused(tmp_path, text, parts):
    save_picture(tmp_path / "0.png")
    (tmp_path / "a.csv").write_text(text)
    refuse(DataSettings(source=str(tmp_path / "a.csv")), "a.csv", *parts)


def test_mvtec(tmp_path):
    names = ["train/good/0", "train/good/1", "test/good/0", "test/crack/0", "test/hole/0", "ground_truth/crack/0_mask"]
    x = {name: save_picture(tmp_path / f"{name}.png", seed=n) for n, name in enumerate(names)}
    with pytest.warns(Notice, match=r"classes good and defect \(crack, hole\); ground_truth is left alone"):
        parts = load_source(str(tmp_path), DataSettings())
    assert {name: part.labels.tolist() for name, part in parts.items()} == {"train": [0, 0], "test": [1, 0, 1]}
    np.testing.assert_array_equal(parts["test"].images[0], x["test/crack/0"])
    assert parts["test"].class_names == ["good", "defect"]


@pytest.mark.parametrize("names", [["10", "2", "cat"], ["b", "ant", "5"]])
def test_class_names_beside_integer_labels_are_kept_and_written(tmp_path, names):
    path = tmp_path / "drawn.npz"
    save_symbols(symbols(4)[:, None], path, 256, False, np.array([0, 2, 1, 1]), names)
    part = load_source(str(path), DataSettings())["all"]
    assert [part.class_names[k] for k in part.labels] == [names[0], names[2], names[1], names[1]]
    known = load_source(str(path), DataSettings(classes=sorted(names)))["all"]
    assert [known.class_names[k] for k in known.labels] == [names[0], names[2], names[1], names[1]]
