"""Sampling with the cache against forward and against the naive sampler, in one run, interleaved, medians.

    python benchmarks/sampling.py [--batch 16] [--rounds 7] [--model gated-pixelcnn] [--features 64] [--blocks 12] ...
    python benchmarks/sampling.py --model pixelcnn++ --preset small paper --batch 16

The naive sampler runs one forward pass for each place, so a few places of it are timed and the rest is extrapolated: its cost per
place does not depend on the place. Everything is float32.
"""

import argparse
import inspect
import statistics
import time
from collections.abc import Iterator

import torch

import nextpixel
from nextpixel.raster import Draw


def timed(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


@torch.inference_mode()
def naive_places(model, batch: int, places: int) -> None:
    """The naive sampler's work at some places."""
    channels, height, width = model.shape
    x = torch.zeros(batch, channels, height, width, dtype=torch.long)
    choose = Draw(model.likelihood, torch.rand(x.shape, dtype=torch.float64))
    for k in range(places):
        i, j = divmod(k * height * width // places, width)
        for c in range(channels):
            if c < model.colours:  # as in raster(): one step serves all channels where the likelihood couples them
                params = model.network(model.encode(x))[:, :, i, j]
            x[:, c, i, j] = choose(params, x, i, j, c)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["pixelcnn", "gated-pixelcnn"], choices=list(nextpixel.MODELS))
    parser.add_argument("--preset", nargs="+", default=[], help="presets of the model, instead of the sizes below")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--shape", nargs=3, type=int, default=[1, 28, 28])
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--kernel_size", nargs="+", type=int, default=[3, 5])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--places", type=int, default=4, help="places of the naive sampler that are timed per round")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print("float32; seconds (median)")
    print(f"{'model':24s}{'batch':>7s}{'forward':>10s}{'cached':>10s}{'passes':>8s}{'naive':>10s}{'speed-up':>10s}")
    for label, model in models(args):
        for batch in args.batch:
            measure(label, model.eval(), batch, args.rounds, args.places)


def models(args: argparse.Namespace) -> Iterator[tuple[str, nextpixel.AutoregressiveModel]]:
    """What is to be measured, one after the other: paper sizes take a gigabyte."""
    for name in args.model:
        cls = nextpixel.MODELS[name]
        for preset in args.preset:
            yield f"{name} {preset}", cls(**cls.presets[preset])
        if not args.preset:
            sizes = {"shape": tuple(args.shape), "levels": args.levels, "features": args.features, "blocks": args.blocks}
            kernels = args.kernel_size if "kernel_size" in inspect.signature(cls).parameters else [None]
            for k in kernels:
                label = f"{name} {args.blocks}x{args.features}" + (f" {k}x{k}" if k else "")
                yield label, cls(**sizes, **({"kernel_size": k} if k else {}))


def measure(label: str, model: nextpixel.AutoregressiveModel, batch: int, rounds: int, places: int) -> None:
    x = torch.randint(model.levels, (batch, *model.shape))
    all_places = model.shape[1] * model.shape[2]

    @torch.inference_mode()
    def forward():
        model(x)

    times = {"forward": [], "cached": [], "naive": []}
    for r in range(rounds + 1):
        seconds = {
            "forward": timed(forward),
            "cached": timed(lambda: model.sample(batch)),
            "naive": timed(lambda: naive_places(model, batch, places)) * all_places / places,
        }
        if r:  # the first round warms up
            for key, value in seconds.items():
                times[key].append(value)
    forward_s, cached_s, naive_s = (statistics.median(times[key]) for key in ("forward", "cached", "naive"))
    passes = statistics.median(c / f for c, f in zip(times["cached"], times["forward"], strict=True))
    print(
        f"{label:24s}{batch:7d}{forward_s:10.4f}{cached_s:10.4f}{passes:8.2f}{naive_s:10.1f}{naive_s / cached_s:10.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
