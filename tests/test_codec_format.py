"""Archive format 3 in time: later arguments, keys and library versions leave an archive readable."""

import hashlib
import inspect
import json
import struct

import pytest
import torch
from golden import make
from tiny import images, tiny_model

import nextpixel
from nextpixel import MODELS, Archive, InputError, compress, decompress
from nextpixel.coding.format.embedded import CONDITION_ENTRIES, DEFAULTS, fingerprint, identity
from nextpixel.conditions import CONDITIONS, SpatialMap
from nextpixel.models import storage

small = {"features": 4, "blocks": 1, "head_features": 4}


def with_header(data, **changes):
    """The archive with other values in its header, sealed again."""
    sizes = struct.unpack("<HIQQ", data[8:30])
    header = json.loads(data[30 : 30 + sizes[1]])
    text = json.dumps({**header, **changes}, sort_keys=True, separators=(",", ":")).encode()
    whole = data[:10] + struct.pack("<IQQ", len(text), *sizes[2:]) + text + data[30 + sizes[1] : -32]
    return whole + hashlib.sha256(whole).digest()


def later(cls, **arguments):
    """An architecture or condition of a later version: with further arguments at the end, which it keeps as attributes."""

    def init(self, *given, **settings):
        own = {name: settings.pop(name, default) for name, default in arguments.items()}
        cls.__init__(self, *given, **settings)
        for name, value in own.items():
            setattr(self, name, value)

    signature = inspect.signature(cls.__init__)
    further = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in arguments.items()]
    init.__annotations__ = {**cls.__init__.__annotations__, **dict.fromkeys(arguments, object)}
    init.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *further])
    return type(cls.__name__, (cls,), {"__init__": init})


# --- which model ---------------------------------------------------------------------------------------------------------


def test_the_frozen_defaults_are_those_of_the_constructors():
    """Whoever changes a default breaks no archive, because `DEFAULTS` stays; but this is where it is noticed."""
    assert DEFAULTS.keys() == MODELS.keys()
    for name, frozen in DEFAULTS.items():
        parameters = inspect.signature(MODELS[name]).parameters
        now = {key: parameter.default for key, parameter in parameters.items() if parameter.default is not parameter.empty}
        assert {key: now[key] for key in frozen} == frozen
        assert parameters["shape"].default is inspect.Parameter.empty
    assert CONDITION_ENTRIES.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_at_its_default_does_not_count(name):
    required = {"shape": (1, 8, 8)}
    model = MODELS[name](**required, **({"stages": DEFAULTS[name]["stages"]} if name == "multiscale" else {}))
    assert identity({"model": name, **model.config}) == {"model": name, "shape": [1, 8, 8]}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pixelcnn", {"features": 5}),
        ("pixelcnn", {"shape": (1, 4, 5)}),
        ("pixelcnn", {"inputs": "embedding"}),
        ("pixelcnn++", {"dropout": 0.25}),
        ("row-lstm", {"residual": False}),
        ("multiscale", {"upsampler_features": 11}),
    ],
    ids=str,
)
def test_what_differs_counts(name, changes):
    """Even where the weights would be the same, as with dropout."""
    configs = [{"model": name, **tiny_model(name, **settings).config} for settings in ({}, changes)]
    assert identity(configs[0]) != identity(configs[1])


@pytest.mark.parametrize("kind", ["none", "labels", "combination", "upsampled", "spatial-map"])
@pytest.mark.parametrize("name", ["pixelcnn", "multiscale"])
def test_a_later_argument_counts_where_it_is_used(monkeypatch, name, kind):
    model = tiny_model(name, condition=kind)
    before = fingerprint(model)
    for registry, classes in ((MODELS, list(MODELS)), (CONDITIONS, list(CONDITIONS))):
        for other in classes:
            if other != "combination":
                monkeypatch.setitem(registry, other, later(registry[other], extra=0.5, more=None))
    again = MODELS[name](**model.config).double()
    again.load_state_dict(model.state_dict())
    assert again.config["extra"] == 0.5
    assert fingerprint(again) == before
    again.extra = 0.25
    assert fingerprint(again) != before


def test_a_later_setting_of_a_condition_or_a_stage_counts_where_it_is_used(monkeypatch):
    monkeypatch.setitem(CONDITIONS, "spatial-map", later(SpatialMap, blur=0))
    config = {"model": "pixelcnn", "shape": [1, 8, 8], "condition": {"name": "spatial-map", "features": 2}}
    before = identity(config)
    config["condition"]["blur"] = 0
    assert identity(config) == before
    config["condition"]["blur"] = 1
    assert identity(config) != before
    stages = [{"stride": 2, "name": "pixelcnn", "features": 64}, {"stride": 1, "name": "row-lstm", "skip": True}]
    assert identity({"model": "multiscale", "stages": stages})["stages"] == [
        {"stride": 2, "name": "pixelcnn"},
        {"stride": 1, "name": "row-lstm", "skip": True},
    ]


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "multiscale"])
def test_an_archive_is_read_by_a_version_with_more_arguments(monkeypatch, tmp_path, name):
    """With its model inside, and with the model in a folder, as both were written before."""
    model = tiny_model(name, (1, 4, 4), 4).float()
    x = images(model, 2)
    embedded, bare = compress(model, x, embed=True), compress(model, x)
    model.save(tmp_path)
    for other in list(MODELS):
        monkeypatch.setitem(MODELS, other, later(MODELS[other], extra=None, factor=1.5))
    assert torch.equal(decompress(None, embedded), x)
    loaded = nextpixel.load(tmp_path)
    assert loaded.factor == 1.5
    assert torch.equal(decompress(loaded, bare), x)
    # And the other way: with the argument at its default, the archive is the same but for the configuration in it.
    assert Archive(compress(loaded, x)).header.fingerprint == Archive(bare).header.fingerprint


def test_golden_archives_are_read_by_a_version_with_more_arguments(monkeypatch):
    for other in list(MODELS):
        monkeypatch.setitem(MODELS, other, later(MODELS[other], extra="none"))
    for name, made in make.GOLDEN.items():
        found = decompress(None, (make.FOLDER / f"{name}.npx").read_bytes())
        assert all(torch.equal(a, b) for a, b in zip(found, made()[1], strict=True))


# --- headers of other versions -------------------------------------------------------------------------------------------


def test_further_keys_and_other_versions_of_libraries_are_accepted():
    model = tiny_model("pixelcnn", (1, 4, 4), 4, **small).float()
    x = images(model, 2)
    data = compress(model, x)
    made = Archive(data).header.made
    versions = {name: "99.1" for name in made if name != "threads"}
    for changes in (
        {"colour_space": "sRGB"},
        {"a": None, "zz": [1, {"b": 2.5}]},
        {"made": {**made, **versions, "threads": 4096}},
        {"made": {"nextpixel": "7.0", "lightning": "3.1", "cores": 3}},
        {"made": {}},
    ):
        changed = with_header(data, **changes)
        assert changed != data
        assert torch.equal(decompress(model, changed), x)
    assert Archive(with_header(data, colour_space="sRGB")).header == Archive(data).header


def test_fast_mode_wants_this_machine_and_says_what_differs():
    model = tiny_model("pixelcnn", (1, 4, 4), 4, **small).float()
    x = images(model, 2)
    data = compress(model, x, mode="fast")
    made = Archive(data).header.made
    assert torch.equal(decompress(model, with_header(data, made={**made, "lightning": "3.1"})), x)
    for changes, line in (
        ({"torch": "99.1"}, "in fast mode with torch 99.1, and only that decodes it: here it is"),
        ({"threads": 100_000}, "with 100000 threads: expected 1 to"),
        ({"threads": 0}, "with 0 threads"),
        ({"threads": "2"}, "with 2 threads"),
    ):
        with pytest.raises(InputError, match=line):
            decompress(model, with_header(data, made={**made, **changes}))
    del made["numba"]
    with pytest.raises(InputError, match="in fast mode with numba that it does not name"):
        decompress(model, with_header(data, made=made))
    del made["threads"]
    with pytest.raises(InputError, match="fast mode"):
        decompress(model, with_header(data, made=made))


def test_a_model_folder_that_is_loaded_is_that_of_its_archive(tmp_path):
    model = tiny_model("pixelcnn", (1, 4, 4), 4, "labels", **small).float()
    model.save(tmp_path)
    config = json.loads((tmp_path / storage.CONFIG).read_text())
    assert fingerprint(nextpixel.load(tmp_path)) == fingerprint(model)
    assert identity(config)["condition"] == {"name": "labels", "features": 4}
