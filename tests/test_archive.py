"""Archives: what goes in comes out, each image alone if need be, and nothing wrong comes out silently."""

import copy
import hashlib
import itertools
import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slow_decoder
import torch
from golden import make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel import Archive, InputError, compress, decompress
from nextpixel.coding import archive as archives
from nextpixel.coding.format.container import Header, join, split
from nextpixel.coding.format.embedded import unpack_model
from nextpixel.coding.format.index import check_name, pack_index
from nextpixel.coding.lanes import Conditions, LaneCoder, Tile
from nextpixel.coding.writer import Settings, Writer

small = {"features": 4, "blocks": 1, "head_features": 4}


@pytest.fixture(scope="module")
def model():
    return tiny_model("pixelcnn", (1, 4, 4), 4, **small).float()


@pytest.fixture(scope="module")
def whole(model):
    """A small archive of three images of two sizes."""
    return compress(model, [*images(model, 2), images(model, 1, (3, 5))[0]], names=["a", "b", "c"])


def resealed(data):
    """A file whose checksum is right, whatever else is not."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def with_header(data, **changes):
    """The archive with other values in its header."""
    sizes = struct.unpack("<HIQQ", data[8:30])
    header = json.loads(data[30 : 30 + sizes[1]])
    made = {**header["made"], **changes.pop("made", {})}
    text = json.dumps({**header, "made": made, **changes}, sort_keys=True, separators=(",", ":")).encode()
    return resealed(data[:10] + struct.pack("<IQQ", len(text), *sizes[2:]) + text + data[30 + sizes[1] :])


def with_entries(data, change):
    contents = split(data, "x")
    return join(replace(contents, entries=change(contents.entries)))


# --- round trips ---------------------------------------------------------------------------------------------------------


def test_images_of_one_size_come_back_as_a_batch(model):
    x = images(model, 5, (3, 7))
    y = decompress(model, compress(model, x))
    assert y.dtype == torch.uint8
    assert torch.equal(y, x)


def test_images_of_many_sizes_come_back_as_a_list(model):
    x = [images(model, 1, size, seed)[0] for seed, size in enumerate([(1, 1), (3, 9), (1, 1), (9, 3), (3, 9), (1, 20)])]
    y = decompress(model, compress(model, x, lanes=2))
    assert [torch.equal(a, b) for a, b in zip(x, y, strict=True)] == [True] * 6


def test_a_thousand_images(model):
    x = images(model, 1000, (2, 2))
    data = compress(model, x)
    assert torch.equal(decompress(model, data), x)
    assert len(data) < 1000 * (4 + 12) + 1000


@pytest.mark.parametrize("levels", [2, 3, 256, 257])
@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn++"])
def test_single_colours_and_noise(name, levels):
    model = tiny_model(name, (1, 4, 4), levels)
    flat = [torch.full((1, 5, 6), symbol) for symbol in {0, 1, levels // 2, levels - 1}]
    x = torch.stack([*flat, *images(model, 2, (5, 6))])
    y = decompress(model, compress(model, x))
    assert torch.equal(y, x)
    assert y.dtype == (torch.uint8 if levels <= 256 else torch.int64)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_images_in_any_settings(data):
    levels, channels = data.draw(st.sampled_from([2, 5, 256])), data.draw(st.sampled_from([1, 3]))
    model = tiny_model("pixelcnn", (channels, 4, 4), levels, **small)
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4))
    x = [images(model, 1, size, data.draw(st.integers(0, 99)))[0] for size in sizes]
    tile = data.draw(st.sampled_from([None, (8, 8), (9, 20)]))
    kept = compress(
        model,
        x,
        lanes=data.draw(st.integers(1, 5)),
        tile=tile,
        mode=data.draw(st.sampled_from(["float64", "fast"])),
        embed=data.draw(st.booleans()),
    )
    with Archive(kept, model) as archive:
        for name in data.draw(st.permutations(archive.names)):
            assert torch.equal(archive.read(name), x[int(name)].to(torch.uint8))


def test_labels_are_in_the_archive_and_other_conditions_are_not():
    labelled = tiny_model("pixelcnn", condition="labels")
    x, labels = images(labelled, 4), torch.tensor([3, 0, 2, 0])
    data = compress(labelled, x, labels)
    assert [entry.label for entry in Archive(data).entries] == labels.tolist()
    assert torch.equal(decompress(labelled, data), x)
    assert len({entry.label for entry in Archive(compress(labelled, x, 2)).entries}) == 1
    with pytest.raises(InputError, match="no condition must be given"):
        decompress(labelled, data, labels)
    bare = with_entries(data, lambda entries: [replace(entry, label=None) for entry in entries])
    assert "does not hold the labels" in refused(bare, labelled)
    other = with_entries(data, lambda entries: [replace(entry, label=4) for entry in entries])
    assert "labels must be from 0 to 3" in refused(other, labelled)
    mapped = tiny_model("pixelcnn", (1, 9, 10), condition="spatial-map")
    x, maps = images(mapped, 3), random_cond(mapped, 3)
    data = compress(mapped, x, maps, tile=(8, 8))
    assert torch.equal(decompress(mapped, data, maps), x)
    with pytest.raises(InputError, match="needs a condition"):
        decompress(mapped, data)
    with pytest.raises(InputError, match="did not decode to the pixels"):
        decompress(mapped, data, maps.flip(0))


def test_each_tile_gets_the_condition_of_its_image():
    model = tiny_model("pixelcnn", (1, 9, 10), condition="combination")
    cond, coder = random_cond(model, 3), LaneCoder(model)
    group = [Tile(2, 0, (0, 8), (0, 8)), Tile(0, 1, (1, 9), (2, 10)), Tile(1, 0, (0, 8), (1, 9))]
    h = coder.condition(cond, 3, 9, 10)
    expected = [h[part.image, :, slice(*part.rows), slice(*part.columns)] for part in group]
    assert torch.equal(Conditions(coder, cond, [(9, 10)] * 3).of(group), torch.stack(expected))
    assert Conditions(LaneCoder(tiny_model("pixelcnn")), None, [(9, 10)] * 3).of(group) is None


def test_conditions_are_encoded_image_by_image(monkeypatch):
    """Not for all images at once, nor for all of them in each size: h may be as large as the images are many."""
    model = tiny_model("pixelcnn", condition="upsampled")
    coder, sizes = LaneCoder(model), [(4 - n % 2, 3) for n in range(20)]
    cond, asked, condition = random_cond(model, 20, (4, 3)), [], coder.condition
    monkeypatch.setattr(coder, "condition", lambda *args: asked.append(args[1:]) or condition(*args))
    found = Conditions(coder, cond, sizes)
    assert sorted(asked) == [(1, 3, 3), (1, 4, 3)]  # one of each size, to see whether it fits
    expected = condition(cond, 20, 4, 3)
    group = [Tile(n, 0, (0, 4), (0, 3)) for n in range(0, 20, 2)]
    assert torch.allclose(found.of(group), expected[::2], rtol=1e-12)
    assert max(batch for batch, _, _ in asked) == 1
    assert len(asked) == 2 + len(group) - 1  # that of image 0 is still there
    # The tiles of one image are of one h, which nothing holds on to.
    found.of([Tile(5, 0, (0, 3), (0, 3))])
    asked.clear()
    tiles = found.of([Tile(0, 0, (0, 2), (0, 3)), Tile(0, 1, (2, 4), (0, 3))])
    assert len(asked) == 1
    assert tiles.untyped_storage().nbytes() == tiles.numel() * 8


def test_labels_are_checked_in_pieces_and_encoded_by_image(monkeypatch):
    coder = LaneCoder(tiny_model("pixelcnn", condition="labels"))
    asked, condition = [], coder.condition
    monkeypatch.setattr(coder, "condition", lambda *args: asked.append(args[1]) or condition(*args))
    labels, sizes = torch.arange(10_000) % 4, [(1 + n, 1) for n in range(10_000)]
    found = Conditions(coder, labels, sizes)
    assert asked == [4096, 4096, 10_000 - 2 * 4096]
    assert found.of([Tile(n, 0, (0, 1), (0, 1)) for n in (3, 6)]).argmax(1).flatten().tolist() == [3, 2]
    for wrong, line in (([0] * 9_999 + [4], "labels must be from 0 to 3"), ([0] * 3, "one label or 10000 integer labels")):
        with pytest.raises(InputError, match=line):
            Conditions(coder, torch.tensor(wrong), sizes)


def test_one_image_is_read_without_the_others(model, whole, monkeypatch):
    batches, decode = [], LaneCoder.decode
    monkeypatch.setattr(LaneCoder, "decode", lambda *args: batches.append(len(args[1])) or decode(*args))
    with Archive(whole, model) as archive:
        assert len(archive) == 3
        assert "b" in archive
        assert "d" not in archive
        assert torch.equal(archive.read("b"), images(model, 2)[1].to(torch.uint8))
        assert batches == [1]
        assert archive.read("c").shape == (1, 3, 5)
        assert [name for name, _ in archive] == ["a", "b", "c"]
        with pytest.raises(InputError, match="the archive has no image 'd': it has a, b, c"):
            archive.read("d")
    with pytest.raises(ValueError, match="closed"):
        archive.read("a")
    # But in fast mode, where the last digits may hang on the neighbours.
    x = images(model, 3)
    fast = compress(model, x, mode="fast", lanes=2)
    batches.clear()
    assert torch.equal(Archive(fast, model).read("1"), x[1].to(torch.uint8))
    assert batches == [2]


def test_the_archive_may_hold_its_model(model, tmp_path):
    x = images(model, 2)
    data = compress(model, x, embed=True)
    assert torch.equal(decompress(None, data), x)
    path = tmp_path / "a.npx"
    path.write_bytes(data)
    with Archive.open(path) as archive:
        assert torch.equal(archive.read("1"), x[1].to(torch.uint8))


def test_progress_is_reported_as_often_as_announced(model):
    x = [*images(model, 3, (3, 4)), images(model, 1, (9, 4))[0]]
    calls = []
    for verify, tile in itertools.product([True, False], [None, (8, 8)]):
        made = Writer(model, x, list("abcd"), settings=Settings(lanes=2, tile=tile, verify=verify))
        calls.clear()
        data = made.write(lambda *count: calls.append(count))
        assert calls == [(row, made.rows()) for row in range(1, made.rows() + 1)]
    with Archive(data, model) as archive:
        calls.clear()
        dict(archive.images(progress=lambda *count: calls.append(count)))
        assert calls == [(row, archive.rows()) for row in range(1, archive.rows() + 1)]


def test_verification_finds_a_machine_that_errs(model, monkeypatch):
    decode = LaneCoder.decode
    monkeypatch.setattr(LaneCoder, "decode", lambda *args: decode(*args).roll(1, 0))
    with pytest.raises(InputError, match="0 was decoded to other pixels"):
        compress(model, images(model, 2))
    compress(model, images(model, 2), verify=False)


# --- golden files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", make.GOLDEN)
def test_golden_archives_decode_here_and_in_plain_python(name):
    data = (make.FOLDER / f"{name}.npx").read_bytes()
    _, x, names, cond, _, _ = make.GOLDEN[name]()
    header, model, found = slow_decoder.read(data)
    assert header["model"] == model.name
    assert [image[0] for image in found] == names
    assert [image[1] for image in found] == ([None] * len(x) if cond is None else cond.tolist())
    with Archive(data) as archive:
        for image, (of_name, _, slow) in zip(x, found, strict=True):
            assert torch.equal(slow, image)
            assert torch.equal(archive.read(of_name), image.to(torch.uint8))
    assert sum(tile.thresholds for entry in archive.entries for tile in entry.tiles) > 0


@pytest.mark.parametrize("name", make.GOLDEN)
def test_golden_archives_are_made_byte_by_byte(name):
    golden = split((make.FOLDER / f"{name}.npx").read_bytes(), "golden")
    _, *rest = make.GOLDEN[name]()
    made = split(make.archive(unpack_model(golden.model, "golden"), *rest), "made")
    assert bytes(made.streams) == bytes(golden.streams)
    assert made.entries == golden.entries
    assert made.model == golden.model
    assert replace(made.header, made=golden.header.made) == golden.header


# --- nothing wrong comes out silently ------------------------------------------------------------------------------------


def refused(data, model=None):
    """That an archive is refused: the line that says why."""
    with pytest.raises(InputError) as caught:
        decompress(model, bytes(data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_truncation_at_every_byte(model, whole):
    for size in range(len(whole)):
        refused(whole[:size], model)
    refused(whole + b"\0", model)


def test_every_flipped_bit(model, whole):
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(damaged, model)


def test_what_is_no_archive_or_of_another_version(model, whole):
    assert refused(b"", model) == "the archive is no nextpixel archive: it does not begin like one"
    assert "no nextpixel archive" in refused(b"\x89PNG\r\n\x1a\n" + whole[8:], model)
    for version in (1, 2, 4):
        line = f"version {version} of the format, or is damaged: this nextpixel reads version 3"
        assert line in refused(resealed(whole[:8] + bytes([version, 0]) + whole[10:]), model)


def test_another_model(model, whole):
    for other in (tiny_model("pixelcnn", (1, 4, 4), 4, seed=2, **small), tiny_model("row-lstm", (1, 4, 4), 4)):
        assert "made with another model: a pixelcnn" in refused(whole, other)
    assert "does not hold its model, a pixelcnn" in refused(whole)
    assert "other channels or levels" in refused(with_header(whole, levels=5), model)
    assert "tables of 18 bits: expected 16" in refused(with_header(whole, bits=18), model)


def test_another_numeric_mode_or_machine(model, whole):
    fast = compress(model, images(model, 3), mode="fast")
    for changes in ({"torch": "1.0"}, {"numba": "0.1"}, {"processor": "abacus"}, {"nextpixel": "0.0.1"}):
        (name,) = changes
        line = refused(with_header(fast, made=changes), model)
        assert f"in fast mode with {name} {changes[name]}, and only that decodes it" in line
        # With margins it decodes all the same.
        assert torch.equal(decompress(model, with_header(compress(model, images(model, 3)), made=changes)), images(model, 3))
    assert "no version of nextpixel wrote" in refused(with_header(whole, mode="fast"), model)  # which has no error bound
    assert "no version of nextpixel wrote" in refused(with_header(whole, mode="float32"), model)


def test_fast_archives_decode_with_the_threads_they_were_made_with(model, monkeypatch):
    threads, decode = [], LaneCoder.decode
    monkeypatch.setattr(LaneCoder, "decode", lambda *args: threads.append(torch.get_num_threads()) or decode(*args))
    x = images(model, 3)
    fast = with_header(compress(model, x, mode="fast"), made={"threads": 2})
    threads.clear()
    assert torch.equal(decompress(model, fast), x)
    assert threads == [2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 0},
        {"channels": True},
        {"levels": 1},
        {"levels": 10**6},
        {"lanes": 0},
        {"lanes": 10**9},
        {"tile": [0, 8]},
        {"tile": [8]},
        {"tile": 8},
        {"bits": 99},
        {"epsilon": None},
        {"epsilon": 2},
        {"model": None},
        {"fingerprint": 5},
        {"made": {"torch": 2.5}},
        {"made": {"torch": "\x1b[31m"}},
        {"made": {"torch": "x" * 201}},
        {"made": {"\n": "1"}},
    ],
    ids=str,
)
def test_headers_that_no_version_writes(model, whole, changes):
    assert "has a header that no version of nextpixel wrote" in refused(with_header(whole, **changes), model)


def test_headers_that_are_not_canonical(whole):
    sizes = struct.unpack("<HIQQ", whole[8:30])
    text = whole[30 : 30 + sizes[1]]
    for other in (text + b" ", b"[" * len(text), b"null", b"\xff" + text[1:], b"{}"):
        data = whole[:10] + struct.pack("<IQQ", len(other), *sizes[2:]) + other + whole[30 + sizes[1] :]
        assert "no version of nextpixel wrote" in refused(resealed(data))


def test_bombs(model, whole):
    def sized(*size):
        return with_entries(whole, lambda entries: [replace(entries[0], size=size), *entries[1:]])

    assert "is beyond the limit" in refused(sized(2**20, 2**20), model)
    assert "is beyond the limit" in refused(sized(1, 2**25), model)
    assert re.search(r"declares 268435\d+ symbols in \d+ bytes, .*: if you trust it", refused(sized(2**14, 2**14), model))
    assert "has no pixels" in refused(sized(0, 5), model)
    tiled = with_header(sized(2**14, 2**14), tile=[8, 8])
    assert "more tiles than there are" in refused(tiled, model)
    for place in (10, 14, 22):  # sizes of the parts
        assert "larger than the file" in refused(resealed(whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :]), model)


def test_bombs_in_time(model, whole):
    """A few bytes may declare many symbols; unasked only what is cheap is decoded, with what fills up a group in fast mode."""

    def sized(data, *size):
        return with_entries(data, lambda entries: [replace(entries[0], size=size), *entries[1:]])

    bomb, rest = sized(whole, 2**10, 2**10), 4 * 4 + 3 * 5
    line = (
        f"declares {2**20 + rest} symbols in {len(bomb)} bytes, which takes more than 3 s: if you trust it, decode with a limit"
    )
    assert line in refused(bomb, model)
    with Archive(bomb, model) as archive:  # what is not bombed can be read, and what is asked for counts
        assert torch.equal(archive.read("c"), images(model, 1, (3, 5))[0].to(torch.uint8))
        with pytest.raises(InputError, match="if you trust it"):
            archive.rows()
    assert re.search(r"declares 47 symbols in \d+ bytes, beyond the limit of 46: if you trust it", limited(whole, model, 46))
    assert len(decompress(model, whole, limit=47)) == 3
    assert torch.equal(Archive(whole, model, limit=16).read("a"), images(model, 2)[0].to(torch.uint8))
    fast = compress(model, images(model, 2), mode="fast", lanes=1000)
    assert "declares 16000 symbols" in limited(fast, model, 15_999)
    assert len(decompress(model, fast, limit=16_000)) == 2


def test_every_channel_counts_for_the_limit():
    model = tiny_model("pixelcnn", (3, 4, 4), 4, **small).float()
    data = compress(model, images(model, 1))
    assert "declares 48 symbols" in limited(data, model, 47)
    assert len(decompress(model, data, limit=48)) == 1


def limited(data, model, limit):
    with pytest.raises(InputError) as caught:
        decompress(model, data, limit=limit)
    return str(caught.value)


def test_images_of_one_colour_may_have_empty_streams(model):
    """Where all symbols are 0 the code is the number 0, of which no byte is written, however many they are and cost."""
    certain = copy.deepcopy(model)
    with torch.no_grad():
        certain.head.out.bias[0] = 1
    x = torch.zeros(2, 1, 30, 40, dtype=torch.uint8)
    x[1, 0, 0, 0] = 3  # so that zeros are read far beyond the end of both, and beside the first are others
    data = compress(certain, x, verify=False)
    first, second = Archive(data).entries
    assert (first.stored, second.stored > 0) == (0, True)
    assert torch.equal(decompress(certain, data), x)
    # However large it is, it is no broken file.
    big = with_entries(data, lambda entries: [replace(entries[0], size=(2**14, 2**14)), entries[1]])
    assert Archive(big).entries[0].stored == 0


def test_a_list_of_thresholds_is_read_in_time_in_proportion(model, whole):
    contents = split(whole, "x")
    size = 200_000
    first = replace(contents.entries[0], tiles=(contents.entries[0].tiles[0]._replace(thresholds=size),))
    rest = [replace(entry, tiles=(entry.tiles[0]._replace(thresholds=0, payload=0),)) for entry in contents.entries[1:]]
    for run in (b"\xf7", b"\x07"):
        streams = run * size + bytes(contents.entries[0].tiles[0].payload)
        assert "did not decode" in refused(join(replace(contents, entries=[first, *rest], streams=streams)), model)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a//b", "a/../b", "a/", "a\\b", "", ".", "..", ".a", "a\0", "a\n", "a ", "C:a", "x" * 201, "a*"]
)
def test_names_that_lead_elsewhere(model, whole, name):
    with pytest.raises(InputError, match="no plain file name"):
        check_name(name)
    with pytest.raises(InputError, match="no plain file name"):
        compress(model, images(model, 1), names=[name])
    assert "no plain file name" in refused(with_entries(whole, lambda entries: [replace(entries[0], name=name), *entries[1:]]))


def test_indices_that_cannot_be_right(model, whole):
    contents = split(whole, "x")
    good = pack_index(contents.entries)
    same = with_entries(whole, lambda entries: [replace(entry, name="a") for entry in entries])
    assert "two images are called 'a'" in refused(same)
    assert "does not fill the file" in refused(with_entries(whole, lambda entries: entries[:2]))
    huge = with_entries(whole, lambda entries: [replace(entries[0], label=2**64), *entries[1:]])
    assert "a is of class 18446744073709551616" in refused(huge)

    def with_index(index):
        start = len(whole) - 32 - len(contents.streams) - len(good)
        head = whole[:22] + struct.pack("<Q", len(index))
        return resealed(head + whole[30:start] + index + whole[start + len(good) :])

    assert with_index(good) == whole
    assert "cut off" in refused(with_index(good[:-1]))
    assert "does not fill" in refused(with_index(good + b"\0"))
    assert "cut off" in refused(with_index(b"\xff\xff\xff\x7f" + good[1:]))
    assert "too long" in refused(with_index(b"\xff" * 11))
    assert "no text" in refused(with_index(good.replace(b"\1a", b"\1\xff", 1)))


def test_streams_that_no_encoder_wrote(model, whole):
    contents = split(whole, "x")
    for streams in (bytes(len(contents.streams)), b"\xff" * len(contents.streams), bytes(contents.streams)[::-1]):
        assert "did not decode to the pixels that were encoded; it was made with" in refused(
            join(replace(contents, streams=streams)), model
        )
    swapped = with_entries(
        whole, lambda entries: [replace(e, tiles=(e.tiles[0]._replace(crc=e.tiles[0].crc ^ 1),)) for e in entries]
    )
    assert "a did not decode" in refused(swapped, model)


def fuzz(model, whole, data):
    """Whatever is changed and sealed again is refused, or decodes to what was encoded."""
    damaged = bytearray(whole[:-32])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "delete"]))
        if kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del damaged[at : at + data.draw(st.integers(1, 4))]
        if len(damaged) < 40:
            break
    try:
        with Archive(resealed(bytes(damaged) + bytes(32)), model) as archive:
            found = dict(archive)
    except InputError:
        return
    expected = [*images(model, 2), images(model, 1, (3, 5))[0]]
    assert [torch.equal(x, y) for x, y in zip(found.values(), expected, strict=True)] == [True] * 3


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fuzzed_archives(model, whole, data):
    fuzz(model, whole, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=20_000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_fuzzed_archives(model, whole, data):
    fuzz(model, whole, data)


def test_images_and_settings_that_cannot_be_used(model):
    x = images(model, 2)
    cases = [
        ([], {}, "no images to compress"),
        (x, {"names": ["a"]}, "2 images need as many names, not 1"),
        (x, {"names": ["a", "a"]}, "two images are called 'a'"),
        (x, {"tile": (7, 8)}, "tiles must be at least 8x8, not 7x8"),
        (x, {"lanes": 0}, "lanes must be"),
        (x, {"mode": "half"}, "mode must be"),
        (x, {"cond": 1}, "takes no condition"),
        (x + 3, {}, r"0: images must have symbols 0\.\.3, but these have"),
        (x.float(), {}, "0: images must be integers"),
        ([x[0], x], {}, r"1: an image must be \(C, H, W\) integers, not torch.Size\(\[2, 1, 4, 4\]\)"),
        ([np.zeros((1, 4, 4))], {}, r"0: images must be integers 0..3, not torch.float64"),
        (x.repeat(1, 3, 1, 1), {}, r"0: images must be \(B, 1, H, W\)"),
    ]
    for x, arguments, line in cases:
        with pytest.raises(InputError, match=line):
            compress(model, x, **arguments)
    with pytest.raises(InputError, match="cannot read"):
        Archive.open("/nowhere/at/all.npx")


def test_public_names(model, whole):
    assert nextpixel.compress is archives.compress
    assert nextpixel.Archive is archives.Archive
    header = split(whole, "x").header
    assert Header.from_json(header.to_json(), "x") == header


def test_the_walk_of_a_symbol_is_the_one_of_the_docs(model):
    root, called = Path(nextpixel.__file__).parent, []
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    walk = re.findall(r"^(\S+\.py: \S+)", page.split("### One encoded symbol")[1].split("```")[1], re.MULTILINE)

    def note(frame, event, arg):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root):
            called.append(f"{path.relative_to(root).as_posix()}: {frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        nextpixel.compress(model, images(model), verify=False)
    finally:
        sys.setprofile(None)
    assert len(walk) > 10
    rest = iter(called)
    assert [step for step in walk if step not in rest] == []  # each after the one before it
