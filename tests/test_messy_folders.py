"""Folders as people have them: any layout, kinds of pictures, pages, names, links and damages, against an oracle that counts.

The oracle follows from how a folder was made, never from reading it: which images must come, with which grey, name and class,
and how many files are left out for which reason.
"""

import random
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load_source
from nextpixel.errors import InputError, Notice, shown
from nextpixel.pictures.headers import SUFFIXES, has_decoder

H, W = 4, 6
SPLITS = [("train", "train"), ("val", "validation"), ("Test", "test"), ("valid", "validation"), ("rest", "rest")]
# How a grey value g is stored: suffix, mode, and how many levels it may come back changed.
STORED = [
    ("png", "L", 0), ("png", "RGB", 0), ("png", "RGBA", 0), ("png", "LA", 0), ("png", "P", 0), ("PNG", "L", 0), ("png", "1", 0),
    ("jpg", "L", 2), ("jpeg", "RGB", 2), ("JPG", "CMYK", 4), ("webp", "RGB", 0), ("gif", "L", 0), ("tif", "L", 0),
    ("tiff", "RGB", 0),    ("bmp", "L", 0), ("bmp", "RGB", 0), ("pgm", "L", 0), ("ppm", "RGB", 0),
]  # fmt: skip
PAGED = ["gif", "tif", "png", "webp"]
JUNK = ["notes.txt", "Thumbs.db", "labels.csv.bak", "README", "movie.mp4", "a.png.part", "mask.npy", "x.heic"]
HIDDEN = [".DS_Store", "._a.png", ".hidden.jpg"]
STEMS = ["a", "b 1", "Ünï", "img#3", "-rf", "10", "9", "long" * 40, "two\nlines", "q'uote", "100%", "日本", "%s", "{0}"]


@dataclass
class Messy:
    """A folder and what must come of it."""

    root: Path
    images: dict[str, tuple[str, int, int, str | None]] = field(default_factory=dict)  # name: split, grey, tolerance, class
    left_out: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)


def write_picture(path: Path, mode: str, greys: list[int]) -> None:
    """One page or frame of an even grey for each of `greys`."""
    pages = []
    for grey in greys:
        page = Image.new("L", (W, H), grey)
        pages.append(page if mode == "L" else page.quantize(4) if mode == "P" else page.convert(mode))
    more = {"save_all": True, "append_images": pages[1:], "duration": 40} if len(pages) > 1 else {}
    exact = {"lossless": True} if path.suffix.lower() == ".webp" else {"quality": 100} if "j" in path.suffix.lower() else {}
    pages[0].save(path, **more, **exact)


def make(seed: int, root: Path) -> Messy:
    """A random folder."""
    rng = random.Random(seed)
    messy = Messy(root)
    root.mkdir(parents=True)
    base = Path(*rng.choice([(), (), ("archive",), ("data", "v 1")])) if (splits := rng.random() < 0.4) else Path()
    chosen = rng.sample(SPLITS, rng.randint(1, 3)) if splits else [("", "all")]
    if splits and base.parts:
        chosen = [("train", "train"), rng.choice([("val", "validation"), ("Test", "test")])]
    if splits and len({split for _, split in chosen}) < len(chosen):
        chosen = chosen[:1]
    if splits and not any(split in ("train", "validation", "test") for _, split in chosen):
        chosen = [("train", "train")]
    classes = rng.choice([[], ["ant", "bee"], ["10", "9", "2"], ["Ünï", "b 1"], ["one"]])
    for folder, split in chosen:
        for name in classes or [""]:
            leaf = root / base / folder / name
            leaf.mkdir(parents=True, exist_ok=True)
            for n in range(rng.randint(1, 3)):
                where = leaf / "deep" / "er" if name and rng.random() < 0.2 else leaf
                where.mkdir(parents=True, exist_ok=True)
                add_picture(messy, where, split if len(chosen) > 1 else "all", name or None, n, rng)
            add_others(messy, leaf, rng)
    if rng.random() < 0.15:
        damage(messy, rng)
    return messy


def add_picture(messy: Messy, where: Path, split: str, label: str | None, n: int, rng: random.Random) -> None:
    suffix, mode, tolerance = rng.choice(STORED)
    several = suffix in PAGED and mode in ("L", "RGB") and rng.random() < 0.25
    grey = rng.choice([0, 255]) if mode == "1" else rng.randrange(256)
    greys = [grey, (grey + 90) % 256, (grey + 170) % 256][: rng.choice([2, 3]) if several else 1]
    file = where / f"{rng.choice(STEMS)}-{n}.{suffix}"
    write_picture(file, mode, greys)
    name = file.relative_to(messy.root).as_posix()
    for page, value in enumerate(greys):
        messy.images[f"{name}#{page + 1}" if several else name] = (split, value, tolerance, label)
    if rng.random() < 0.1:
        link = where / f"link-{n}.{suffix}"
        link.symlink_to(file)  # to what is there without it
        messy.left_out["symbolic link"] += 1
    if rng.random() < 0.1:
        outside = messy.root.parent / f"outside-{messy.root.name}-{len(messy.images)}.png"
        write_picture(outside, "L", [77])
        for k in range(rng.choice([1, 2])):  # once, however many links lead there
            (where / f"outside-{n}-{k}.png").symlink_to(outside)
            if k:
                messy.left_out["symbolic link"] += 1
        messy.images[(where / f"outside-{n}-0.png").relative_to(messy.root).as_posix()] = (split, 77, 0, label)


def add_others(messy: Messy, leaf: Path, rng: random.Random) -> None:
    """Files that are no pictures, and links that lead nowhere or round in circles."""
    for name in rng.sample(JUNK, rng.choice([0, 0, 0, 1, 3])):
        (leaf / name).write_bytes(b"something else")
        messy.left_out[Path(name).suffix or "without ending"] += 1
    for name in rng.sample(HIDDEN, rng.choice([0, 0, 0, 1])):
        (leaf / name).write_bytes(b"hidden")
        messy.left_out["hidden"] += 1
    for suffix in (".jxl", ".avif"):
        if rng.random() < 0.05 and not has_decoder(suffix):
            (leaf / f"new{suffix}").write_bytes(b"\0" * 40)
            messy.left_out[f"{suffix} (no decoder)"] += 1
    if rng.random() < 0.1:
        (leaf / "gone.png").symlink_to("/nowhere/at/all.png")
        messy.left_out["broken link"] += 1
    if rng.random() < 0.1:
        (leaf / "round").symlink_to(messy.root)
        messy.left_out["symbolic link"] += 1


def damage(messy: Messy, rng: random.Random) -> None:
    """Cut a file short, empty it, or fill it with something else."""
    name = rng.choice(sorted(messy.images)).rpartition("#")[0] or rng.choice(sorted(messy.images))
    file = messy.root / name
    if not file.is_file() or file.is_symlink():
        return
    content = file.read_bytes()
    file.write_bytes(rng.choice([b"", content[:9], b"<html>404</html>" + content[16:], content[: len(content) // 3]]))
    messy.damaged.append(name)


def check(messy: Messy) -> str:
    """Compare what is read with what must come; what happened, in a word."""
    settings = DataSettings(source=str(messy.root), grayscale=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parts = load_source(str(messy.root), settings)
        except InputError as error:
            message = str(error)
            assert messy.damaged, message
            assert "\n" not in message
            assert len(message) <= 300, message
            assert shown(Path(messy.damaged[0]).name[-12:]) in message, message
            return "refused"
    notices = [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]
    assert len(notices) == len(caught), [str(warning.message) for warning in caught]
    assert not messy.damaged, f"{messy.damaged} is damaged, and nothing said so"
    found = {}
    for split, part in parts.items():
        for n, name in enumerate(part.names):
            label = None if part.labels is None else part.class_names[part.labels[n]]
            assert (part.images[n] == part.images[n, 0, 0, 0]).all(), name
            found[name] = (split, int(part.images[n, 0, 0, 0]), label)
    assert sum(len(part) for part in parts.values()) == len(messy.images)
    assert {name: (split, label) for name, (split, _, label) in found.items()} == {
        name: (split, label) for name, (split, _, _, label) in messy.images.items()
    }
    for name, (_, grey, tolerance, _) in messy.images.items():
        assert abs(found[name][1] - grey) <= tolerance, (name, found[name], grey)
    out, said = sum(messy.left_out.values()), [line for line in notices if "left out" in line]
    if not out:
        assert not said, said
        return "read"
    files = {name.rpartition("#")[0] if name.rpartition("#")[2] in "123" and "#" in name else name for name in messy.images}
    paged = {name for name in files if (messy.root / name).exists()}
    assert len(said) == 1
    assert f"{out} of {out + len(paged)} files left out" in said[0], (said, messy.left_out, len(paged))
    for reason, count in messy.left_out.items():
        if len(messy.left_out) <= 6:
            assert f"{count} {reason}" in said[0], (said[0], reason)
    with pytest.raises(InputError, match="left out"):
        load_source(str(messy.root), DataSettings(source=str(messy.root), grayscale=True, strict=True))
    return "read with a notice"


def check_seed(seed: int, folder: Path) -> str:
    root = folder / f"messy-{seed}"
    try:
        return check(make(seed, root))
    finally:
        shutil.rmtree(root, ignore_errors=True)
        for file in folder.glob(f"outside-messy-{seed}-*"):
            file.unlink()


@pytest.mark.filterwarnings("ignore")
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_messy_folders(tmp_path, seed):
    check_seed(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_2000_messy_folders(tmp_path):
    outcomes = Counter(check_seed(seed, tmp_path) for seed in range(2000))
    assert min(outcomes[kind] for kind in ("refused", "read", "read with a notice")) > 100, outcomes


def test_every_kind_is_tried():
    kinds = {f".{suffix.lower()}" for suffix, _, _ in STORED} | {".avif", ".jxl"}
    assert kinds <= SUFFIXES | {".pnm"}
    assert np.unique([mode for _, mode, _ in STORED]).size == 7
