"""Archives that lie: no memory and no time that their length does not justify, unless they are asked for, and nothing wrong."""

import hashlib
import re
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import mutations
import pytest
import torch
from mutations import MEMORY, SECONDS, Watched, attack, seeded
from tiny import images, random_cond, tiny_model

from nextpixel import MODELS, Archive, InputError, compress, decompress
from nextpixel.coding import limits as allowance
from nextpixel.coding.entropy.tables import table_bits
from nextpixel.coding.format.container import Contents, Header, join, split
from nextpixel.coding.format.embedded import fingerprint, pack_model, unpack_model
from nextpixel.coding.format.index import Entry, StoredTile
from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.limits import BUILD, Costs

small = {"features": 4, "blocks": 1, "head_features": 4}


@pytest.fixture(scope="module")
def models():
    """Of each architecture one, in the arithmetic of a codec, that has coded something: so compiling is not timed."""
    found = {name: tiny_model(name, (1, 4, 4), 4).float() for name in MODELS}
    for model in found.values():
        compress(model, images(model, 2))
    return found


def declaring(model, sizes, streams=b"", tile=None, lanes=64, mode="float64"):
    """An archive of this model with these sizes of images, whose streams are the given bytes, in equal parts."""
    counts = [1 if tile is None else -(-h // tile[0]) * -(-w // tile[1]) for h, w in sizes]
    each, entries, at = len(streams) // sum(counts), [], 0
    for n, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        entries.append(Entry(f"{n}", size, None, tuple(StoredTile(0, at + k * each, 0, each) for k in range(count))))
        at += count * each
    bits, epsilon = table_bits(model.levels), 2.0**-20 if mode == "float64" else None
    header = Header(model.name, fingerprint(model), model.shape[0], model.levels, mode, lanes, tile, bits, epsilon)
    return join(Contents(header, b"", entries, streams[:at]))


def outcome(data, model):
    with Watched() as watched:
        try:
            decompress(model, data)
            line = "decoded"
        except InputError as error:
            line = str(error)
    assert watched.seconds < SECONDS, (watched.seconds, line)
    assert watched.memory < MEMORY, (watched.memory, line)
    return line


# --- bombs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_declared_sizes_cost_nothing(models, name):
    """The first took 11 GB, and minutes, when only symbols were counted."""
    model = models[name]
    for size in ((1, 2**20), (2**20, 1), (1, 2**17), (2**10, 2**11), (64, 8192)):
        line = outcome(declaring(model, [size], bytes(9800)), model)
        assert re.search(r"declares \d+ symbols in \d+ bytes, .*: if you trust it, decode with a limit of \d+$", line)


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn++"])
def test_many_scans_count_together(models, name):
    model = models[name]
    sizes = [(h, w) for h in range(1, 80) for w in range(1, 80)]  # each a scan of its own
    assert "which takes more than 3 s: if you trust it" in outcome(declaring(model, sizes), model)
    assert "which takes more than 3 s: if you trust it" in outcome(declaring(model, [(32, 32)] * 9000), model)
    assert "which takes more than 3 s: if you trust it" in outcome(declaring(model, [(8000, 300)], tile=(8, 300)), model)


def test_bytes_that_no_encoder_wrote_end_with_the_first_scan(models):
    """A megabyte of anything may be an honest archive, up to the first checksum."""
    model, noise = models["pixelcnn"], seeded(0).randbytes(10**6)
    assert "0 did not decode to the pixels" in outcome(declaring(model, [(40, 40)] * 600, noise), model)
    assert "did not decode to the pixels" in outcome(declaring(model, [(40, 40 + n % 40) for n in range(600)], noise), model)
    assert "0 did not decode to the pixels" in outcome(declaring(model, [(1000, 1000)], noise, tile=(64, 64)), model)
    assert "which takes more than 3 s" in outcome(declaring(model, [(1000, 1000)], noise), model)


def test_one_long_stream_does_not_lengthen_the_others(models):
    """The payloads of a scan are brought to one length: 4096 of a megabyte would be gigabytes."""
    model = models["pixelcnn"]
    contents = split(declaring(model, [(1, 1)] * 4096, lanes=4096), "x")
    entries = [replace(contents.entries[0], tiles=(StoredTile(0, 0, 0, 900_000),)), *contents.entries[1:]]
    entries[1:] = [replace(entry, tiles=(StoredTile(0, 900_000, 0, 0),)) for entry in entries[1:]]
    assert "did not decode" in outcome(join(replace(contents, entries=entries, streams=bytes(900_000))), model)
    thresholds = [replace(entries[0], tiles=(StoredTile(0, 0, 900_000, 0),)), *entries[1:]]
    assert "did not decode" in outcome(join(replace(contents, entries=thresholds, streams=bytes(900_000))), model)


def test_an_index_of_a_megabyte(models):
    model = models["pixelcnn"]
    for data in (declaring(model, [(1, 1)] * 70_000), declaring(model, [(8 * 400, 8 * 400)], tile=(8, 8))):
        assert 900_000 < len(data) < 1.3e6
        with Watched() as watched, suppress(InputError):
            archive = Archive(data, model)
            archive.rows()
        assert archive.entries[-1].tiles[-1].stored == 0
        assert watched.seconds < SECONDS
        assert watched.memory < MEMORY


def test_a_group_of_fast_mode_is_filled_up(models):
    model = models["pixelcnn"]
    line = outcome(declaring(model, [(64, 1024)], mode="fast", lanes=4096), model)
    assert re.search(r"declares 268435456 symbols .*: if you trust it", line)


def test_a_large_embedded_model_is_asked_for(models):
    model = models["pixelcnn"]
    contents = split(compress(model, images(model, 1), embed=True), "x")
    packed = contents.model
    (size,) = struct.unpack_from("<I", packed)
    many = {f"body.{n}.bias": torch.zeros(1) for n in range(int(1.5 * allowance.SECONDS / BUILD))}
    import safetensors.torch

    data = join(replace(contents, model=packed[: 4 + size] + safetensors.torch.save(many)))
    assert len(data) < 2**20
    assert re.search(r"with a model of \d+ weights: if you trust it", outcome(data, None))
    with pytest.raises(InputError, match="is of another architecture than this pixelcnn"):
        decompress(None, data, limit=16)


@pytest.mark.parametrize("change", [{"features": 2000}, {"blocks": 10**5}, {"head_features": 10**5}], ids=str)
def test_a_configuration_is_compared_with_the_weights_before_memory_is_taken(models, change):
    import json

    packed = pack_model(models["pixelcnn"])
    (size,) = struct.unpack_from("<I", packed)
    text = json.dumps({**json.loads(packed[4 : 4 + size]), **change}).encode()
    data = struct.pack("<I", len(text)) + text + packed[4 + size :] + bytes(10**6)
    with Watched() as watched, pytest.raises(InputError):
        unpack_model(data, "x")
    assert watched.seconds < SECONDS
    assert watched.memory < 50e6


def test_models_of_other_threads_are_built_meanwhile(models):
    """What counts the calls of one thread must not refuse what another one builds."""
    packed, failed, stop = pack_model(models["pixelcnn"]), [], threading.Event()

    def build():
        while not stop.is_set():
            try:
                tiny_model("pixelcnn", (1, 4, 4), 4, features=4, blocks=40)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        unpack_model(packed, "x")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


# --- what is honest ------------------------------------------------------------------------------------------------------


def test_usual_archives_need_no_limit():
    """64 images of CIFAR's size, a photograph in tiles, many small images: none is decoded here, only compared."""
    photos = tiny_model("pixelcnn++", (3, 32, 32), 256, features=40, blocks=2).float()  # 1.5 million parameters, "small"
    digits = tiny_model("gated-pixelcnn", (1, 28, 28), 2, features=32, blocks=6, head_features=32).float()
    grey = tiny_model("pixelcnn", (3, 61, 64), 256, features=24, blocks=6, head_features=48).float()
    for model, sizes, bits, tile in (
        (photos, [(32, 32)] * 64, 3.6, None),
        (photos, [(32, 32)] * 5000, 3.6, None),
        (photos, [(480, 640)], 3.6, (32, 32)),
        (grey, [(427, 640)] * 2, 5.5, (61, 64)),
        (digits, [(28, 28)] * 250, 0.15, None),
    ):
        symbols = sum(h * w for h, w in sizes) * model.shape[0]
        data = declaring(model, sizes, bytes(int(symbols * bits / 8) + 50 * len(sizes)), tile=tile)
        with Archive(data, model) as archive:
            assert archive.rows() > 0


def test_groups_are_decoded_in_as_few_scans_as_memory_allows(models, monkeypatch):
    """In float64 an image does not depend on those beside it, so that a group needs no more memory than there is."""
    model = models["pixelcnn"]
    x = images(model, 50)
    data, fast = compress(model, x, embed=True), compress(model, x, mode="fast", embed=True)
    monkeypatch.setattr(allowance, "MEMORY", Costs(LaneCoder(model).model).scan((4, 4), 13, payload=20).memory)
    scans, decode = [], LaneCoder.decode
    monkeypatch.setattr(LaneCoder, "decode", lambda self, *args: scans.append(len(args[0])) or decode(self, *args))
    with Archive(data) as archive:
        assert torch.equal(torch.stack([image for _, image in archive]), x)
    assert scans == [13, 13, 13, 11]
    with pytest.raises(InputError, match="whose scan takes some 1 MB: if you trust it"):
        decompress(None, fast)
    assert torch.equal(decompress(None, fast, limit=64 * 16), x)


@pytest.mark.parametrize("kind", ["none", "labels", "spatial-map", "upsampled"])
@pytest.mark.parametrize("name", MODELS)
def test_estimates_bound_the_memory_that_scans_take(models, name, kind):
    model = models[name] if kind == "none" else tiny_model(name, (1, 4, 4), 4, kind).float()
    coder = LaneCoder(model)
    coder.measure(images(model, 1), coder.condition(random_cond(model, 1), 1, 4, 4))
    costs = Costs(coder.model)
    x = images(model, 64, (2, 48))
    streams = coder.encode(x, coder.condition(random_cond(model, 64, (2, 48)), 64, 2, 48))
    for lanes, size in ((1, (2, 256)), (64, (2, 48))):
        h = coder.condition(random_cond(model, lanes, size), lanes, *size)
        with Watched() as watched:
            coder.decode(streams[:lanes], size, h)
        said = costs.scan(size, lanes, len(coder.chunks(lanes)), max(len(s.payload) for s in streams))
        assert watched.memory < said.memory + 6e6, (lanes, watched.memory, said)  # and the weights
        assert watched.seconds < 10 * said.seconds, (lanes, watched.seconds, said)


# --- 8,000 of them -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bases():
    return mutations.archives()


def test_mutated_archives(bases):
    seen = Counter(attack(base, seeded(f"{n} {seed}"))[0] for seed in range(20) for n, base in enumerate(bases))
    assert sum(seen.values()) == 100
    assert seen["refused"] > 50
    assert seen["decoded"] > 0


@pytest.mark.slow
def test_8000_mutated_archives(bases):
    results, failed = [], []
    for name in (f"{n} {seed}" for seed in range(1600) for n in range(len(bases))):
        try:
            results.append(attack(bases[int(name[0])], seeded(name)))
        except Exception as error:
            failed.append((name, f"{type(error).__name__}: {error}"))
    assert failed == []
    assert len(results) == 8000
    seconds, memory = max(r[1] for r in results), max(r[2] for r in results)
    print(Counter(r[0] for r in results), f"at most {seconds:.2f} s, {memory / 1e6:.0f} MB")


def test_a_mutation_is_sealed(bases):
    data = mutations.mutated(bases[0][0], seeded(0))
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert data != bases[0][0]


# --- what a caller does meanwhile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["float64", "fast"])
@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn++", "multiscale"])
def test_autocast_and_training_mode_of_a_caller_change_nothing(models, name, mode):
    model, x = models[name], images(models[name], 3)
    model.eval()
    expected = compress(model, x, mode=mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train()
        assert compress(model, x, mode=mode) == expected
        assert torch.equal(decompress(model, expected), x)
        assert model.training
        model.eval()


def test_another_thread_may_sample_and_train_the_model_meanwhile(models):
    model, stop, failed = tiny_model("pixelcnn", (1, 8, 8), 4, **small).float(), threading.Event(), []
    x = images(model, 6)
    before = [p.detach().clone() for p in model.parameters()]

    def meanwhile():
        try:
            while not stop.is_set():
                model.train()
                model.sample(2, seed=1)
                with torch.no_grad():
                    for p, value in zip(model.parameters(), before, strict=True):
                        p.copy_(value + 0.01 * torch.randn_like(p))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=meanwhile)
    thread.start()
    try:
        for _ in range(8):
            data = compress(model, x, embed=True)
            assert torch.equal(decompress(None, data), x)
    finally:
        stop.set()
        thread.join()
    assert failed == []
