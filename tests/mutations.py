"""Archives that are wrong in every way that a checksum does not show: taken apart, changed, put together and sealed again."""

import ctypes
import hashlib
import itertools
import json
import random
import struct
import time

import torch
from tiny import images, tiny_model

from nextpixel import Archive, InputError, compress
from nextpixel.coding.format.embedded import fingerprint, unpack_model
from nextpixel.coding.format.index import Reader, leb128

SECONDS, MEMORY = 5.0, 300e6  # of a mutated archive, at most
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 63, 64, 255, 256, 1000, 4095, 4096, 2**14, 2**16, 2**20, 2**24, 2**28, 2**31, 2**53, 2**64, -1]
VALUES = [
    *NUMBERS,
    None,
    True,
    0.5,
    1e-9,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "pixelcnn",
    "fast",
    "float64",
    "\x1b[2J",
    [],
    [8, 8],
    {},
]


def archives():
    """(archive, model that it needs or None, images by their bytes) of small images under several settings."""
    small = {"features": 4, "blocks": 1, "head_features": 4}
    sizes, found = {"pixelcnn": small, "pixelcnn++": {"features": 4, "blocks": 1, "stages": 2}}, []
    for name, condition, settings, embed in (
        ("pixelcnn", "none", {"tile": (8, 8)}, False),
        ("pixelcnn", "labels", {}, True),
        ("pixelcnn++", "none", {"lanes": 3}, True),
        ("row-lstm", "none", {"mode": "fast", "lanes": 2}, True),
        ("multiscale", "none", {}, True),
    ):
        model = tiny_model(name, (1, 4, 4), 4, condition, **(sizes.get(name, {}))).float()
        x = [*images(model, 2), images(model, 1, (9, 9))[0]]
        cond = torch.tensor([0, 3, 1]) if condition == "labels" else None
        data = compress(model, x, cond, embed=embed, **settings)
        found.append((data, None if embed else model, {image.to(torch.uint8).numpy().tobytes() for image in x}))
    return found


def mutated(data, rng):
    """One archive with one to three changes to its parts, and right checksums."""
    sizes = struct.unpack("<IQQ", data[10:30])
    cuts = [30, *(30 + sum(sizes[: k + 1]) for k in range(3)), len(data) - 32]
    parts = [data[a:b] for a, b in itertools.pairwise(cuts)]
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(["header", "header", "model", "index", "index", "streams", "bytes"])
        if kind == "header":
            parts[0] = _json(parts[0], rng)
        elif kind == "model" and len(parts[1]) > 16:
            parts[1] = _model(parts[1], rng)
            if rng.random() < 0.7:
                parts[0] = _owned(parts[0], parts[1])
        elif kind == "index":
            parts[2] = _index(parts[0], parts[2], rng)
        elif kind == "streams":
            parts[3] = rng.choice([b"", bytes(len(parts[3])), rng.randbytes(len(parts[3])), parts[3] + rng.randbytes(99)])
        else:
            part = rng.randrange(4)
            parts[part] = _bytes(parts[part], rng)
    body = data[:10] + struct.pack("<IQQ", *map(len, parts[:3])) + b"".join(parts)
    return body + hashlib.sha256(body).digest()


def _json(text, rng):
    """A value somewhere in a JSON object changed, added or removed."""
    try:
        value = json.loads(text)
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = rng.choice(keys)
            if not (isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7):
                break
            node = node[key]
        how = rng.random()
        if how < 0.1 and isinstance(node, dict):
            node[rng.choice(["more", "lanes", "epsilon"])] = rng.choice(VALUES)
        elif how < 0.2:
            del node[key]
        elif isinstance(node[key], int) and how < 0.6:
            node[key] += rng.choice([-1, 1, 7, 1000])
        else:
            node[key] = rng.choice(VALUES)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, TypeError, IndexError, KeyError):
        return _bytes(text, rng)


def _model(packed, rng):
    """The configuration, the head of the weights, or the weights."""
    (size,) = struct.unpack_from("<I", packed)
    config, weights = packed[4 : 4 + size], packed[4 + size :]
    which = rng.random()
    if which < 0.4:
        config = _json(config, rng)
    elif which < 0.6 and len(weights) > 8:
        (length,) = struct.unpack_from("<Q", weights)
        head = _json(weights[8 : 8 + length], rng)
        weights = struct.pack("<Q", len(head)) + head + weights[8 + length :]
    else:
        start = min(len(weights), 8 + (struct.unpack_from("<Q", weights)[0] if len(weights) > 8 else 0))
        values = bytearray(weights)
        for _ in range(rng.choice([1, 5, 500])):
            if len(values) - start >= 4:
                at = rng.randrange(start, len(values) - 3) & ~3
                values[at : at + 4] = struct.pack("<f", rng.choice([0.0, 1e30, -1e30, 1e5, float("nan"), float("inf"), 1e-40]))
        weights = bytes(values)
    return struct.pack("<I", len(config)) + config + weights


def _owned(text, packed):
    """A header whose fingerprint is that of the model, if there is one."""
    try:
        return json.dumps(
            {**json.loads(text), "fingerprint": fingerprint(unpack_model(packed, "x"))}, sort_keys=True, separators=(",", ":")
        ).encode()
    except (InputError, ValueError, TypeError):
        return text


def _index(text, index, rng):
    """An entry's number, name, size, class or checksum, or those of a tile; or an entry more or less."""
    try:
        header, reader, entries = json.loads(text), Reader(index), []
        number = reader.number()
        for _ in range(number):
            name, height, width, label = reader.bytes(reader.number()), reader.number(), reader.number(), reader.number()
            down, right = header["tile"] or (height, width)
            tiles = [[reader.bytes(4), reader.number(), reader.number()] for _ in range(-(-height // down) * -(-width // right))]
            entries.append([name, height, width, label, tiles])
        entry, how = rng.choice(entries), rng.randrange(8)
        if how < 4:
            entry[rng.randint(1, 3)] = rng.choice([n for n in NUMBERS if n >= 0])
        elif how == 4:
            entry[0] = rng.choice([b"", b"../x", b"\xff", b"a" * 300, entries[0][0]])
        elif how == 5:
            rng.choice(entry[4])[rng.randint(1, 2)] = rng.choice([n for n in NUMBERS if n >= 0])
        elif how == 6:
            rng.choice(entry[4])[0] = rng.randbytes(4)
        else:
            entries = rng.choice(
                [entries * 2, entries[:-1], entries[::-1], [*entries, [b"z", 2**10, 2**11, 0, [[bytes(4), 0, 0]]]]]
            )
        found = leb128(len(entries))
        for name, height, width, label, tiles in entries:
            found += leb128(len(name)) + name + leb128(height) + leb128(width) + leb128(label)
            found += b"".join(crc + leb128(thresholds) + leb128(payload) for crc, thresholds, payload in tiles)
        return found
    except (InputError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError):
        return _bytes(index, rng)


def _bytes(part, rng):
    part = bytearray(part)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(part))
        part[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    return bytes(part)


def resident(peak=False):
    """Bytes of this process, now or at most since the last reset (Linux)."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM" if peak else "VmRSS"))


class Watched:
    """Processor time of a block, and how much memory it took at most above what there was (Linux)."""

    def __enter__(self):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that was freed is taken again unseen
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self.before, self.start = resident(), time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds, self.memory = time.process_time() - self.start, resident(peak=True) - self.before


def attack(base, rng):
    """Decode a mutated archive: what came of it, in seconds and bytes. Anything but right images or one line is raised."""
    data, model, known = base
    changed = mutated(data, rng)
    with Watched() as watched:
        try:
            with Archive(changed, model) as archive:
                result, found = "decoded", dict(archive)
        except InputError as error:
            line = str(error)
            result = "asked" if "if you trust it" in line else "refused"
    assert result == "decoded" or "\n" not in line, line
    if result == "decoded":
        assert all(x.numpy().tobytes() in known for x in found.values()), "decoded to other pixels"
    assert watched.seconds < SECONDS, (watched.seconds, result)
    assert watched.memory < MEMORY, (watched.memory, result)
    return result, watched.seconds, watched.memory


def seeded(seed):
    return random.Random(seed)
