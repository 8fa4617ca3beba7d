"""The archive format once more, as docs/codec.md describes it, in plain Python: whole numbers, no vectors, one symbol at a time.

It shares no code with `nextpixel.coding`. Of the library it takes the models: a whole forward pass for every place, in float64.
"""

import hashlib
import json
import math
import struct
import zlib
from fractions import Fraction

import safetensors.torch
import torch

import nextpixel


class RangeDecoder:
    """constriction's queue coder: words of 32 bits, a state of 64 bits, probabilities of 24 bits."""

    def __init__(self, payload):
        self.words = [int.from_bytes(payload[k : k + 4].ljust(4, b"\0"), "big") for k in range(0, len(payload), 4)]
        self.lower, self.range = 0, 2**64 - 1
        self.point = self.word() << 32 | self.word()

    def word(self):
        return self.words.pop(0) if self.words else 0

    def decode(self, table):
        """The symbol whose share of 2^24 holds the code point; `table` has the boundaries of all shares."""
        scale = self.range >> 24
        quantile = (self.point - self.lower) % 2**64 // scale
        symbol = max(k for k in range(len(table) - 1) if table[k] <= quantile)
        self.lower = (self.lower + scale * table[symbol]) % 2**64
        self.range = scale * (table[symbol + 1] - table[symbol])
        if self.range < 2**32:
            self.lower, self.range = (self.lower << 32) % 2**64, self.range << 32
            self.point = (self.point << 32) % 2**64 | self.word()
        return symbol


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def number(self):
        found = shift = 0
        while True:
            (byte,) = self.take(1)
            found, shift = found | (byte & 127) << shift, shift + 7
            if byte < 128:
                return found


def digits_of(levels, epsilon):
    """Of P, that count."""
    digits = least = 7 + math.ceil(math.log2(levels)) // 2
    while digits < least + 3 and (epsilon is None or epsilon * 2 ** (digits + 1) <= 2**-12):
        digits += 1
    return digits


def table_of(cdf, bits, digits, threshold):
    """The boundaries of all symbols, in 2^24, from P(X <= k)."""
    levels, table = len(cdf), [0]
    for k in range(1, levels):
        p = cdf[k - 1]
        side, spacing = Fraction(min(p, 1 - p)), Fraction(1, 2**bits)
        while side >= spacing * 2**digits:
            spacing *= 2
        n = math.floor(side / spacing)
        if side / spacing - n >= threshold:
            n += 1
        rounded = 1 - n * spacing if p > 0.5 else n * spacing
        table.append(k + round(rounded * (2**bits - levels)))
    return [boundary << (24 - bits) for boundary in (*table, 2**bits)]


def thresholds_of(runs, turns):
    """Of every turn."""
    lengths = 1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096
    found = []
    for run in runs:
        found += [Fraction(1, 4) + Fraction(run % 16, 32)] * lengths[run // 16]
    return (found + [Fraction(1, 2)] * turns)[:turns]


@torch.no_grad()
def decode_tile(model, size, label, bits, digits, runs, payload):
    x = torch.zeros(1, model.shape[0], *size, dtype=torch.long)
    coder, order = RangeDecoder(payload), model.order(*size)
    for turn, threshold in enumerate(thresholds_of(runs, order.numel())):
        c, i, j = (int(k) for k in (order == turn).nonzero()[0])
        params = model(x, label)[:, :, i, j]
        cdf = model.likelihood.pmf(params, x[:, :, i, j], c)[0].cumsum(0).tolist()
        x[0, c, i, j] = coder.decode(table_of(cdf, bits, digits, threshold))
    return x[0]


def read(data):
    """header, model, and of each image its name, label and symbols."""
    assert data[:8] == b"\x89NPX\r\n\x1a\n"
    version, *sizes = struct.unpack("<HIQQ", data[8:30])
    assert version == 3
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    body = Bytes(data[30:-32])
    header, packed, index = json.loads(body.take(sizes[0])), Bytes(body.take(sizes[1])), Bytes(body.take(sizes[2]))
    model = build(packed) if packed.data else None
    images = []
    for _ in range(index.number()):
        name, height, width, label = index.take(index.number()).decode(), index.number(), index.number(), index.number()
        down, right = header["tile"] or (height, width)
        x = torch.empty(header["channels"], height, width, dtype=torch.long)
        for i in range(0, height, down):
            for j in range(0, width, right):
                view = x[:, i : i + down, j : j + right]
                crc, of_runs, of_payload = struct.unpack("<I", index.take(4))[0], index.number(), index.number()
                streams = body.take(of_runs), body.take(of_payload)
                digits = digits_of(header["levels"], header["epsilon"])
                view[:] = decode_tile(model, view.shape[1:], label - 1 if label else None, header["bits"], digits, *streams)
                assert zlib.crc32(view.numpy().astype("u1" if header["levels"] <= 256 else "<u2").tobytes()) == crc
        images.append((name, label - 1 if label else None, x))
    assert index.at == len(index.data)
    assert body.at == len(body.data)
    return header, model, images


def build(packed):
    config = json.loads(packed.take(struct.unpack("<I", packed.take(4))[0]))
    weights = safetensors.torch.load(packed.take(len(packed.data) - packed.at))
    model = nextpixel.MODELS[config.pop("model")](**config)
    model.load_state_dict(weights)
    return model.double().eval()
