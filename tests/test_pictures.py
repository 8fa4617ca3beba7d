import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel.errors import InputError
from nextpixel.pictures.grid import HIDDEN, LINE, SEPARATOR, save_completions, save_grid
from nextpixel.pictures.masks import load_mask
from nextpixel.pictures.read import load_image, read_picture


def read(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_grid_holds_every_symbol_at_its_place(tmp_path, kind):
    x = np.random.default_rng(0).integers(4, size=(5, 1, 3, 2))
    save_grid(kind(x), 4, tmp_path / "grid.png", columns=2, scale=3)
    picture = read(tmp_path / "grid.png")
    assert picture.shape == (3 * (9 + LINE) + LINE, 2 * (6 + LINE) + LINE, 3)
    for n in range(5):
        top, left = (n // 2) * (9 + LINE) + LINE, (n % 2) * (6 + LINE) + LINE
        tile = picture[top : top + 9, left : left + 6]
        expected = x[n, 0].repeat(3, axis=0).repeat(3, axis=1) * 85  # 255 / (4 - 1)
        assert (tile == expected[..., None]).all()
    assert (picture[:LINE] == SEPARATOR).all()
    assert (picture[-LINE - 9 :, LINE + 6 :] == SEPARATOR).all()  # the empty sixth place


def test_three_channels_are_rgb_and_two_stand_side_by_side(tmp_path):
    x = torch.arange(12).reshape(1, 3, 2, 2)
    save_grid(x, 12, tmp_path / "rgb.png", scale=1)
    inside = read(tmp_path / "rgb.png")[LINE:-LINE, LINE:-LINE]
    assert (inside == np.rint(x[0].permute(1, 2, 0).numpy() * 255 / 11)).all()
    save_grid(x[:, :2], 12, tmp_path / "two.png", scale=1)
    inside = read(tmp_path / "two.png")[LINE:-LINE, LINE:-LINE]
    assert inside.shape == (2, 4, 3)
    assert (inside[..., 0] == np.rint(np.array([[0, 1, 4, 5], [2, 3, 6, 7]]) * 255 / 11)).all()


def test_default_sizes_are_visible_and_bounded(tmp_path):
    for shape in [(1, 1, 8, 8), (16, 1, 28, 28), (3, 3, 20, 50)]:
        save_grid(np.zeros(shape, dtype=int), 2, tmp_path / "grid.png", columns=1)
        assert max(Image.open(tmp_path / "grid.png").size) >= 64
    save_grid(np.zeros((900, 1, 32, 32), dtype=int), 2, tmp_path / "grid.png")
    width, height = Image.open(tmp_path / "grid.png").size
    assert width == height <= 2000
    save_grid(np.zeros((24, 1, 4, 12), dtype=int), 2, tmp_path / "wide.png", scale=1)
    width, height = Image.open(tmp_path / "wide.png").size
    assert 0.5 < width / height < 2


def test_known_places_are_marked_and_others_are_not(tmp_path):
    x = torch.randint(256, (2, 3, 4, 5))
    known = torch.zeros(1, 4, 5, dtype=torch.bool)
    known[:, 1, 2] = True
    save_grid(x, 256, tmp_path / "plain.png", columns=1, scale=1)
    save_grid(x, 256, tmp_path / "known.png", columns=1, scale=1, known=known)
    changed = (read(tmp_path / "plain.png") != read(tmp_path / "known.png")).any(axis=-1)
    places = {(LINE + n * (4 + LINE) + 1, LINE + 2) for n in range(2)}
    assert set(map(tuple, np.argwhere(changed).tolist())) == places


def test_a_row_of_completions_is_original_masked_completions(tmp_path):
    original = torch.randint(2, (2, 1, 3, 4))
    completions = torch.randint(2, (2, 3, 1, 3, 4))
    known = load_mask("left:0.5", 3, 4)
    save_completions(original, known, completions, 2, tmp_path / "completions.png", scale=1)
    picture = read(tmp_path / "completions.png")
    assert picture.shape == (2 * (3 + LINE) + LINE, 5 * (4 + LINE) + LINE, 3)
    for n in range(2):
        row = picture[LINE + n * (3 + LINE) :][:3]
        tiles = [row[:, LINE + k * (4 + LINE) :][:, :4] for k in range(5)]
        assert (tiles[0] == original[n, 0, :, :, None].numpy() * 255).all()
        assert (tiles[1][:, :2] == tiles[0][:, :2]).all()
        assert (tiles[1][:, 2:] == HIDDEN).all()
        for k in range(3):
            assert (tiles[2 + k] == completions[n, k, 0, :, :, None].numpy() * 255).all()


@pytest.mark.parametrize(
    ("x", "levels", "options"),
    [
        (np.zeros((3, 4, 4), dtype=int), 2, {}),
        (np.zeros((0, 1, 4, 4), dtype=int), 2, {}),
        (np.zeros((1, 1, 4, 4)), 2, {}),
        (np.full((1, 1, 4, 4), 2), 2, {}),
        (np.full((1, 1, 4, 4), -1), 2, {}),
        (np.zeros((1, 1, 4, 4), dtype=int), 2, {"columns": 0}),
        (np.zeros((1, 1, 4, 4), dtype=int), 2, {"scale": 0}),
        (np.zeros((1, 1, 4, 4), dtype=int), 2, {"known": np.ones((3, 4), dtype=bool)}),
    ],
)
def test_bad_grids_are_refused_and_leave_no_file(tmp_path, x, levels, options):
    with pytest.raises(InputError):
        save_grid(x, levels, tmp_path / "grid.png", **options)
    assert list(tmp_path.iterdir()) == []


def test_completions_must_belong_to_their_originals(tmp_path):
    zeros = torch.zeros(2, 1, 3, 4, dtype=torch.int64)
    with pytest.raises(InputError, match="do not belong"):
        save_completions(zeros, torch.ones(3, 4), torch.zeros(3, 1, 1, 3, 4, dtype=torch.int64), 2, tmp_path / "c.png")


@pytest.mark.parametrize("levels", [2, 4, 17, 256])
def test_an_image_is_read_as_symbols(tmp_path, levels):
    grey = np.random.default_rng(0).integers(256, size=(5, 7), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    x = load_image(tmp_path / "grey.png", levels, 1)
    assert x.shape == (1, 5, 7)
    assert x.dtype == torch.int64
    assert x[0].tolist() == [[math.floor(int(v) * levels / 256) for v in row] for row in grey]
    assert torch.equal(load_image(tmp_path / "grey.png", levels, 3), x.repeat(3, 1, 1))


def test_what_save_grid_wrote_load_image_reads(tmp_path):
    x = torch.arange(16).reshape(1, 1, 4, 4)
    save_grid(x, 16, tmp_path / "grid.png", scale=1)
    assert torch.equal(load_image(tmp_path / "grid.png", 16, 1)[:, LINE:-LINE, LINE:-LINE], x[0])


def test_colour_is_read_as_rgb_and_never_turned_grey(tmp_path):
    rgb = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    assert (load_image(tmp_path / "rgb.png", 256, 3).permute(1, 2, 0).numpy() == rgb).all()
    with pytest.raises(InputError, match="colour"):
        load_image(tmp_path / "rgb.png", 256, 1)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_other_opaque_modes_are_read(tmp_path, mode):
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "picture.png")
    assert load_image(tmp_path / "picture.png", 2, 1).tolist() == [[[0, 1], [1, 0]]]


def test_unfit_pictures_are_refused_by_name(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    noise = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:2000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ["clear.png", "deep.png", "cut.png", "text.png", "empty.png", "missing.png", "."]:
        with pytest.raises(InputError) as error:
            load_image(tmp_path / name, 256, 1)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="2 are needed"):
        load_image(tmp_path / "whole.png", 256, 2)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("reader", [lambda path: load_image(path, 256, 3), read_picture])
def test_damaged_files_of_any_format_never_give_a_traceback(tmp_path, format, reader):
    generator = np.random.default_rng(0)
    path = tmp_path / "picture"
    Image.fromarray(generator.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(path, format=format)
    reader(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.integers(min(len(whole), 120))] = generator.integers(256)
        cut = generator.integers(1, len(whole) + 1) if generator.random() < 0.5 else len(whole)
        path.write_bytes(damaged[:cut])
        try:  # any other exception fails the test
            reader(path)
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("spec", "rows", "columns"),
    [
        ("top:0.5", (0, 2), (0, 6)),
        ("bottom:0.25", (3, 4), (0, 6)),
        ("left:0.5", (0, 4), (0, 3)),
        ("right:0.25", (0, 4), (4, 6)),  # 1.5 columns are rounded up
        ("top:0", (0, 0), (0, 6)),
        ("bottom:0", (0, 0), (0, 6)),
        ("right:1", (0, 4), (0, 6)),
    ],
)
def test_a_side_and_a_share_are_a_mask(spec, rows, columns):
    expected = torch.zeros(1, 4, 6, dtype=torch.bool)
    expected[:, slice(*rows), slice(*columns)] = True
    assert torch.equal(load_mask(spec, 4, 6), expected)


@pytest.mark.parametrize("spec", ["top:1.5", "top:-0.1", "left:half", "right:", "top:nan", "middle:0.5", "nowhere.png"])
def test_bad_masks_are_refused_by_name(spec):
    with pytest.raises(InputError, match=spec.split(":")[0]):
        load_mask(spec, 4, 6)


def test_a_mask_picture_is_white_where_known(tmp_path):
    expected = np.random.default_rng(0).integers(2, size=(4, 6)).astype(bool)
    Image.fromarray(expected).save(tmp_path / "mask.png")
    assert (load_mask(tmp_path / "mask.png", 4, 6)[0].numpy() == expected).all()
    with pytest.raises(InputError, match=r"6 x 4.*4 x 6"):
        load_mask(tmp_path / "mask.png", 6, 4)
    Image.fromarray(expected.astype(np.uint8) * 200).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match="black and white"):
        load_mask(tmp_path / "grey.png", 4, 6)


def test_a_photograph_and_a_mask_are_turned_as_their_exif_data_say(tmp_path):
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # its top stands at the right
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    turned = np.rot90(grey, -1)
    assert (load_image(tmp_path / "turned.png", 256, 1)[0].numpy() == turned).all()
    assert (read_picture(tmp_path / "turned.png")[0] == turned).all()
    Image.fromarray((grey % 7 < 3).astype(np.uint8) * 255).save(tmp_path / "mask.png", exif=exif)
    assert load_mask(tmp_path / "mask.png", 7, 5)[0, :3].all()
    assert not load_mask(tmp_path / "mask.png", 7, 5)[0, 3:].any()


def test_more_than_8_bits_in_colour_are_refused_by_all(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    body = zlib.compress(2 * (b"\0" + 12 * b"\xff"))
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    for read in (read_picture, lambda path: load_image(path, 256, 3), lambda path: load_mask(path, 2, 2)):
        with pytest.raises(InputError, match="more than 8 bits"):
            read(path)
