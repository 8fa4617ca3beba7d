"""A model's folder is never trusted: whatever is in it, one line, in less than a second, with less than 50 MB."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import socket
import struct
import time
import warnings

import pytest
import safetensors.torch
import torch

import nextpixel
from nextpixel.errors import InputError
from nextpixel.models import MODELS
from nextpixel.models.storage import CARD, CONFIG, PROGRESS, WEIGHTS

BIG = (10**5, 10**9, 10**18, 10**4000, -1, 0)
WRONG = (None, "a", "8", [], [8], {}, True, 1.5, 8.0, float("nan"), float("inf"))


def tiny(name="pixelcnn", **options):
    cls = MODELS[name]
    return cls(**{**cls.presets["tiny"], **options})


def copied(honest, folder, config=None, weights=None):
    """A model's folder in which something else stands for its configuration, or its weights: values or bytes."""
    folder.mkdir(parents=True)
    for name, what in ((CONFIG, config), (WEIGHTS, weights)):
        if what is None:
            os.link(honest / name, folder / name)
        elif isinstance(what, bytes):
            (folder / name).write_bytes(what)
        else:
            safetensors.torch.save_file(what, folder / name)
    return folder


def forged(header, data=b"\0" * 8):
    """A file of weights with this header, JSON or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def hostile_configs():
    """Names and configurations, of which none describes the model whose weights lie beside it."""
    for name in MODELS:
        config = {"model": name, **tiny(name).config}
        for key in ("features", "blocks", "kernel_size", "stages", "head_features", "first_kernel_size"):
            if isinstance(config.get(key), int):
                yield from ((name, f"{key} {value:.3g}" if value < 1e99 else key, {**config, key: value}) for value in BIG)
        for key in ("levels", "embedding_features"):
            yield from ((name, f"{key} {value:g}", {**config, key: value}) for value in (-1, 0, 10**9))
    config = {"model": "gated-pixelcnn", **tiny("gated-pixelcnn").config}
    for key in ("model", "shape", "levels", "features", "likelihood", "inputs", "condition"):
        values = [value for value in WRONG if value is not None or key != "condition"]
        yield from (("gated-pixelcnn", f"{key} {value!r}", {**config, key: value}) for value in values)
    for shape in ([1, 8], [1, 8, 8, 8], [0, 8, 8], [1, -8, 8], [10**9, 8, 8], [1, 10**18, 8], [1, 8, "8"], [[1], 8, 8]):
        yield "gated-pixelcnn", f"shape {shape}", {**config, "shape": shape}
    kinds = ("labels", "vector", "spatial-map", "encoded")
    for kind in kinds:
        for features in (*BIG, "a", 1.5):
            yield "gated-pixelcnn", f"{kind} {features!r:.9}", {**config, "condition": {"name": kind, "features": features}}
    prime = {"name": "spatial-map", "features": 2, "factor": 2**61 - 1}
    part = {"name": "labels", "features": 3}
    for _ in range(200):
        part = {"name": "combination", "parts": [part]}
    for what, condition in (
        ("a large prime", prime),
        ("nested parts", part),
        ("unknown", {"name": "x"}),
        ("none", {"name": None}),
    ):
        yield "gated-pixelcnn", what, {**config, "condition": condition}
    multi = {"model": "multiscale", **tiny("multiscale").config}
    for what, change in (
        ("features", {"features": 10**6}),
        ("blocks", {"blocks": 10**5}),
        ("stride", {"stride": 10**9}),
        ("name", {"name": "multiscale"}),
        ("shape", {"shape": [1, 8, 8]}),
    ):
        stages = copy.deepcopy(multi["stages"])
        stages[0] |= change
        yield "multiscale", f"{what} of a stage", {**multi, "stages": stages}
    yield "multiscale", "many stages", {**multi, "stages": [{"stride": 2**k, "name": "pixelcnn"} for k in range(2000, -1, -1)]}
    yield "gated-pixelcnn", "another argument", {**config, "wings": 2}
    yield "gated-pixelcnn", "an argument of Python", {**config, "self": 2}
    yield "gated-pixelcnn", "no shape", {key: value for key, value in config.items() if key != "shape"}
    yield "gated-pixelcnn", "no model", {key: value for key, value in config.items() if key != "model"}
    for what, value in (("a list", []), ("a number", 5), ("nothing", None), ("text", "pixelcnn"), ("empty", {})):
        yield "gated-pixelcnn", what, value


HOSTILE_TEXTS = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "pixelcnn"}'.encode("utf-16"),
    "zeros": bytes(1000),
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 50_000,
    "long": b'{"model": "' + b"x" * 10**6 + b'"}',
    "a huge number": b'{"model": "pixelcnn", "shape": [1, 8, 8], "features": ' + b"9" * 5000 + b"}",
    "a huge float": b'{"model": "pixelcnn", "shape": [1, 8, 8], "features": 1e999}',
    "NaN": b'{"model": "pixelcnn", "shape": [1, NaN, 8]}',
    "lines in a name": b'{"model": "a\\nb\\u2028c"}',
    "a surrogate": b'{"model": "\\ud800"}',
}
HOSTILE_FILES = {
    "empty": b"",
    "short": b"1234567",
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "a header of nothing": struct.pack("<Q", 0),
    "no JSON": forged(b"{" * 1000),
    "no UTF-8": forged(b"\xff\xfe{}"),
    "nested": forged(b'{"a":' * 20_000),
    "a list": forged([]),
    "cut off": forged({"a": entry([2], 0, 8)}, b"\0" * 4),
    "overlapping": forged({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}),
    "a hole": forged({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12),
    "beyond its end": forged({"a": entry([2**40], 0, 2**42)}),
    "overflowing": forged({"a": entry([2**62, 8], 0, 8)}),
    "negative": forged({"a": entry([-2], 0, 8)}),
    "backwards": forged({"a": entry([2], 8, 0)}),
    "an unknown type": forged({"a": entry([2], 0, 8, "Q7")}),
    "one that is half a byte": forged({"a": entry([16], 0, 8, "F4")}),
    "numbers as metadata": forged({"__metadata__": {"x": 1}}, b""),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.",
    "many names": forged({f"{k}": entry([0], 0, 0) for k in range(5_000)}, b""),
}


def hostile_weights():
    """Names, and weights of the tiny model that are changed in one place."""
    weights = tiny().state_dict()
    name = next(name for name in weights if name.endswith("weight"))
    for value in (float("nan"), float("inf"), float("-inf")):
        changed = {key: tensor.clone() for key, tensor in weights.items()}
        changed[name].view(-1)[-1] = value
        yield f"{value}", changed
    yield "one is missing", {key: tensor for key, tensor in weights.items() if key != name}
    yield "one too many", {**weights, "x\ny": torch.zeros(1)}
    yield "another shape", {**weights, name: torch.zeros(3)}
    yield "transposed", {**weights, name: weights[name].flatten()}
    for dtype in (torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        yield f"{dtype}", {**weights, name: weights[name].to(dtype)}


def hostile_folders(folder):
    """Make them one after another; their names and paths."""
    number = iter(range(10**6))

    def made(honest, **what):
        return copied(honest, folder / str(next(number)), **what)

    models = {name: folder / name for name in MODELS}
    for name, path in models.items():
        tiny(name).save(path)
    for name, what, config in hostile_configs():
        yield f"{name}: {what}", made(models[name], config=json.dumps(config).encode())
    for what, text in HOSTILE_TEXTS.items():
        yield f"config: {what}", made(models["pixelcnn"], config=text)
    for what, data in HOSTILE_FILES.items():
        yield f"weights: {what}", made(models["pixelcnn"], weights=data)
    for what, weights in hostile_weights():
        yield f"weights: {what}", made(models["pixelcnn"], weights=weights)
    for name in (CONFIG, WEIGHTS):
        for what in ("fifo", "socket", "device", "folder", "dangling", "loop", "none"):
            path = made(models["pixelcnn"])
            (path / name).unlink()
            if what == "fifo":
                os.mkfifo(path / name)
            elif what == "socket":
                with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound, contextlib.chdir(path):
                    bound.bind(name)
            elif what == "folder":
                (path / name).mkdir()
            elif what != "none":
                targets = {"device": "/dev/zero", "dangling": "/nowhere", "loop": name}
                (path / name).symlink_to(targets[what])
            yield f"{name}: {what}", path
    for text in ("[]", "{", '{"finished": 1}', '{"finished": false, "best": null}', "\0"):
        run = folder / str(next(number))
        copied(models["pixelcnn"], run / "model")
        (run / PROGRESS).write_text(text, encoding="utf-8")
        yield f"progress: {text}", run


def memory(field):
    """Bytes of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(rf"{field}:\s+(\d+) kB", file.read())[1]) * 1024


def forget_peak():
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def give_up(*_):
    raise TimeoutError


def test_hostile_folders_are_one_line_in_no_time_and_without_memory(tmp_path):
    before = signal.signal(signal.SIGALRM, give_up)
    faults, tried = [], 0
    try:
        for what, folder in hostile_folders(tmp_path):
            forget_peak()
            resident, start, message = memory("VmRSS"), time.process_time(), ""
            signal.alarm(30)
            try:
                nextpixel.load(folder)
            except BaseException as error:  # what else than InputError there is, is a fault to be listed
                message = f"{error}" if isinstance(error, InputError) else f"{type(error).__name__}\n{error}"
            finally:
                signal.alarm(0)
            seconds, grown = time.process_time() - start, memory("VmHWM") - resident
            if len(message.splitlines()) != 1 or len(message) > 1000 or seconds > 2 or grown > 50e6:
                faults.append(f"{what}: {seconds:.1f} s, {grown / 1e6:.0f} MB, {message[:200]!r}")
            tried += 1
            shutil.rmtree(folder)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not faults, "\n".join(faults)
    assert tried > 250


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_honest_folders_are_read(tmp_path, name, dtype):
    model = tiny(name).to(dtype)
    model.save(tmp_path / "model")
    loaded = nextpixel.load(tmp_path / "model")
    assert loaded.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
        assert loaded.state_dict()[key].dtype == dtype


def test_another_thread_may_build_models_meanwhile(tmp_path, monkeypatch):
    from nextpixel.models import storage

    tiny().save(tmp_path / "model")
    real, found = storage.untrained, []

    def slow(*args):
        import threading

        other = threading.Thread(target=lambda: found.append([tiny("pixelcnn++") for _ in range(20)]))
        other.start()
        other.join()
        return real(*args)

    monkeypatch.setattr(storage, "untrained", slow)
    nextpixel.load(tmp_path / "model")
    assert [len(models) for models in found] == [20, 20]


# --- unfinished runs -------------------------------------------------------------------------------------------------


def make_run(folder, **progress):
    tiny().save(folder / "model")
    (folder / "config.yaml").write_text("recipe: custom\n", encoding="utf-8")
    (folder / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    return folder


@pytest.mark.parametrize("inside", ["", "model"])
def test_an_unfinished_run_is_loaded_and_says_so(tmp_path, inside):
    run = make_run(tmp_path / "x", finished=False, best="epoch 3 of 20")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        model = nextpixel.load(run / inside)
    assert model.name == "pixelcnn"
    (one,) = noted
    assert str(one.message) == f"{run} is not finished: these are its best weights so far, of epoch 3 of 20"
    assert issubclass(one.category, UserWarning)
    assert one.filename == __file__


def test_a_finished_run_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nextpixel.load(make_run(tmp_path / "x", finished=True, best="epoch 3 of 20"))


def test_a_run_without_a_model_yet_says_what_to_do(tmp_path):
    run = make_run(tmp_path / "x", finished=False, best="step 6")
    shutil.rmtree(run / "model")
    with pytest.raises(InputError, match=f"{run} has no model yet: finish it with nextpixel train --out {run} --resume"):
        nextpixel.load(run)


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    from nextpixel.models import storage

    tiny(features=8).save(tmp_path / "model")
    real = storage._read_weights

    def late(path):
        monkeypatch.setattr(storage, "_read_weights", real)
        tiny(features=16).save(tmp_path / "model")
        return real(path)

    monkeypatch.setattr(storage, "_read_weights", late)
    assert nextpixel.load(tmp_path / "model").features == 16


# --- writing ---------------------------------------------------------------------------------------------------------


def test_all_files_of_a_model_have_the_permissions_of_the_umask(tmp_path):
    tiny().save(tmp_path / "model")
    (tmp_path / "note").touch()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys((CONFIG, WEIGHTS, CARD), (tmp_path / "note").stat().st_mode & 0o777)


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path):
    import resource

    tiny(levels=3).save(tmp_path / "model")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*model: .*File too large") as error:
            tiny(levels=5).save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert nextpixel.load(tmp_path / "model").levels == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_files_in_a_models_folder_are_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis\.tex"):
        tiny().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
