"""What decoding costs beside what `nextpixel.coding.limits` says of it: by architecture, likelihood, condition, size and lanes.

    PYTHONPATH=tests python benchmarks/cost.py [--threads 1] [PART OF A NAME ...]

Streams of random bytes are decoded, in processor time; memory is the peak of the process above what it had before (Linux).
"""

import argparse
import ctypes
import gc
import time

import numpy as np
import torch
from tiny import images, random_cond, tiny_model

from nextpixel.coding.entropy.choosers import Stream
from nextpixel.coding.lanes import LaneCoder
from nextpixel.coding.limits import Costs

LARGE = {"features": 48, "blocks": 6}
MODELS = [
    *((name, {}) for name in ("pixelcnn", "gated-pixelcnn", "pixelcnn++", "row-lstm", "diagonal-bilstm", "multiscale")),
    *((name, LARGE) for name in ("pixelcnn", "gated-pixelcnn", "pixelcnn++", "row-lstm")),
    ("pixelcnn", {"levels": 256, "head_features": 128, **LARGE}),
    ("gated-pixelcnn", {"condition": "spatial-map"}),
    ("pixelcnn", {"condition": "upsampled"}),
    ("pixelcnn", {"levels": 8192}),
]
SCANS = [(1, 8, 8), (1, 2, 1024), (1, 64, 64), (64, 16, 16), (64, 2, 128), (1024, 4, 8)]


def memory(peak: bool) -> float:
    """Bytes of this process, now or at most since the last reset."""
    name = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def measured(coder: LaneCoder, lanes: int, size: tuple[int, int]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(size[0] * size[1] * coder.model.shape[0] // 2) for _ in range(lanes)]
    cond = random_cond(coder.model, lanes, size)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that was freed is taken again unseen
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, start = memory(peak=False), time.process_time()
    h = coder.condition(cond, lanes, *size)
    coder.decode([Stream(payload, b"") for payload in payloads], size, h)
    return time.process_time() - start, memory(peak=True) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for channels in (1, 3):
        for name, settings in MODELS:
            if args.names and not any(part in name for part in args.names):
                continue
            levels = settings.get("levels", 256 if name == "pixelcnn++" else 16)
            model = tiny_model(name, (channels, 8, 8), **{**settings, "levels": levels}).float()
            coder = LaneCoder(model)
            coder.measure(images(model, 1), coder.condition(random_cond(model, 1), 1, 8, 8))
            measured(coder, 2, (8, 8))
            costs = Costs(coder.model)
            print(f"{name}, {channels} channels, {settings}, {sum(p.numel() for p in model.parameters())} parameters")
            for lanes, *size in SCANS:
                pieces = len(coder.pieces(lanes))
                said, (seconds, taken) = costs.scan(tuple(size), lanes, pieces), measured(coder, lanes, tuple(size))
                print(
                    f"  {lanes:5d} x {size[0]:3d} x {size[1]:4d}  "
                    f"{seconds:8.3f} s, said {said.seconds:8.3f} ({said.seconds / seconds:5.2f})  "
                    f"{taken / 1e6:8.1f} MB, said {said.memory / 1e6:8.1f} ({said.memory / max(taken, 1e5):7.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
