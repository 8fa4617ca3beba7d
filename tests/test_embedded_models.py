"""Models within archives: whatever a configuration says, it is one line, and costs no memory or time that its weights do not."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from nextpixel import MODELS, InputError
from nextpixel.coding.format.embedded import pack_model, unpack_model

KINDS = ("none", "combination", "encoded", "upsampled")
integers = st.one_of(st.integers(-3, 3), st.sampled_from([10**4, 10**9, 2**40, -(10**9), 10**30]))
values = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(),
    st.text(max_size=3),
    st.lists(integers, max_size=4),
    st.dictionaries(st.text(max_size=2), integers, max_size=1),
)


def taken_apart(packed):
    (size,) = struct.unpack_from("<I", packed)
    return json.loads(packed[4 : 4 + size]), packed[4 + size :]


def put_together(config, weights):
    text = json.dumps(config).encode()
    return struct.pack("<I", len(text)) + text + weights


@pytest.fixture(scope="module")
def packs():
    """Of every architecture under some conditions: configuration and weights."""
    return [taken_apart(pack_model(tiny_model(name, condition=kind).float())) for name in MODELS for kind in KINDS]


def places(value, above=()):
    """The keys to every value within a configuration."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*above, key)
        yield from places(part, (*above, key))


def fuzz(packs, data):
    config, weights = data.draw(st.sampled_from(packs))
    changed = json.loads(json.dumps(config))
    *above, key = data.draw(st.sampled_from(list(places(changed))))
    node = changed
    for step in above:
        node = node[step]
    node[key] = data.draw(values)
    try:
        model = unpack_model(put_together(changed, weights), "x")
    except InputError as error:
        line = str(error)
    else:
        assert taken_apart(pack_model(model))[1] == weights
        line = ""
    assert "\n" not in line


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fuzzed_configurations(packs, data):
    fuzz(packs, data)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_fuzzed_configurations(packs, data):
    fuzz(packs, data)


def test_every_model_comes_back(packs):
    for config, weights in packs:
        assert taken_apart(pack_model(unpack_model(put_together(config, weights), "x"))) == (config, weights)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"features": 10**6}, "describes a model that is larger than its weights"),
        ({"shape": [2**40, 3, 4]}, "describes a model that is larger than its weights"),
        ({"shape": [2.0**40, 3, 4]}, "describes a model that is larger than its weights"),
        ({"shape": [1, float("inf"), 4]}, "expected tuple"),
        ({"features": float("nan")}, "describes a model that is larger than its weights"),
        ({"features": 5}, "pixelcnn expects"),
        ({"blocks": 3}, "is of another architecture than this pixelcnn: it lacks"),
        ({"blocks": 5000}, "it describes more weights than there are"),
    ],
    ids=str,
)
def test_configurations_that_ask_for_more_than_there_is(packs, change, line):
    config, weights = packs[0]
    with pytest.raises(InputError, match=f"the model in x .*{line}"):
        unpack_model(put_together({**config, **change}, weights), "x")


def test_bytes_that_are_no_model(packs):
    packed = put_together(*packs[0])
    for broken in (b"", packed[:3], packed[:50], packed[:-1], b"\0\0\0\0" + packed[4:], packed.replace(b"pixelcnn", b"pixelnnn")):
        with pytest.raises(InputError, match=r"x holds a model that cannot be read|the model in x is a 'pixelnnn' model"):
            unpack_model(broken, "x")
