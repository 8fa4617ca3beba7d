"""The codec: rate beside PNG, WebP and JPEG XL at their best settings, speed beside a forward pass, on the same images.

    python benchmarks/codec.py RUN DATA [--split test] [--images 64] [--lanes 64] [--mode float64] [--threads 2]

RUN is a run or model folder, DATA what `nextpixel train --data` takes, quantised to the model's levels. All is timed in one
run: a forward pass of all images in float64 (log_prob, as many at once as lanes), encoding and decoding. Archives are not
verified while timed, and every image is compared at the end. First calls, which compile and allocate, are not timed. JPEG XL
wants the extra `bench`.
"""

import argparse
import math

import numpy as np
import torch

import nextpixel
from nextpixel.coding.writer import Settings, Writer
from nextpixel.conditions import cond_of
from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load as load_data
from nextpixel.machine import machine_line, timed
from nextpixel.scoring.baselines import jpeg_xl, png, webp


def chosen(images: Images, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As many images, evenly over a set that may be sorted, and their labels."""
    places = [k * len(images) // number for k in range(min(number, len(images)))]
    x = images.__getitems__(places)[0]
    return x, None if images.labels is None else torch.as_tensor(images.labels)[places]


def rates(x: torch.Tensor, model, settings: DataSettings, nats: torch.Tensor, archive) -> None:
    dims, bits = x.numel(), -nats.sum().item() / math.log(2)
    streams = 8 * sum(entry.stored for entry in archive.entries)
    thresholds = 8 * sum(tile.thresholds for entry in archive.entries for tile in entry.tiles)
    excess = [8 * entry.stored + nat / math.log(2) for entry, nat in zip(archive.entries, nats.tolist(), strict=True)]
    print(f"model's log_prob       {bits / dims:.4f} bits/dim")
    print(f"streams                {streams / dims:.4f} bits/dim, {100 * (streams / bits - 1):.2f} % above, ", end="")
    print(f"{sum(excess) / 8 / len(x):.2f} bytes per image (at most {max(excess) / 8:.2f}); thresholds {thresholds / dims:.5f}")
    if model.levels > 256 or model.codes:
        return
    from nextpixel.data.raw import RawImages

    same = Images(RawImages(x.numpy().astype(np.uint8), None, None, model.levels), settings)
    for baseline in [*png(same), *webp(same), *jpeg_xl(same)]:
        rate = "" if baseline.bits_per_dim is None else f"{baseline.bits_per_dim:.4f} bits/dim; "
        print(f"{baseline.name:26s}{rate}{baseline.note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--mode", default="float64")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = nextpixel.load(args.run)
    settings = DataSettings(source=args.data, levels=model.levels)
    x, labels = chosen(load_data(settings)[args.split], args.images)
    cond = cond_of(model.condition, x, labels)
    settings_of = Settings(args.mode, args.lanes, verify=False)
    results = {}

    def part(number: int, start: int = 0):
        return x[start : start + number], cond if cond is None else cond[start : start + number]

    def written(x: torch.Tensor, cond):
        return Writer(model, list(x), [str(n) for n in range(len(x))], cond, settings_of)

    writer = written(x, cond)
    labelled = writer.conditions.labels is not None

    def opened(data: bytes, cond) -> nextpixel.Archive:
        return nextpixel.Archive(data, model, None if labelled else cond, limit=2**28)

    with torch.no_grad():
        exact = writer.coder.model.double()
        exact.log_prob(*part(2))
        groups = [part(args.lanes, start) for start in range(0, len(x), args.lanes)]
        forward = timed(lambda: results.update(nats=torch.cat([exact.log_prob(*group) for group in groups])))
    writer.coder.model.to(writer.coder.dtype)
    dict(opened(written(*part(2)).write(), part(2)[1]))
    measuring = timed(writer.measure)
    encoding = timed(lambda: results.update(data=writer.write()))
    archive = opened(results["data"], cond)
    decoding = timed(lambda: results.update(images=dict(archive.images())))
    assert all(torch.equal(results["images"][str(n)].long(), image) for n, image in enumerate(x))
    print(machine_line())
    print(f"{model.name}, {model.likelihood.name}, {args.mode}, {len(x)} images {tuple(x.shape[1:])}")
    kilobytes = x.numel() * math.log2(model.levels) / 8000  # as they are, without any header
    print(f"forward, float64       {forward:.2f} s; the error bound {measuring:.2f} s for each archive")
    for verb, seconds in (("encode", encoding), ("decode", decoding)):
        speed = f"{len(x) / seconds:.2f} images/s, {kilobytes / seconds:.2f} kB/s"
        print(f"{verb}                 {seconds:.2f} s, {seconds / forward:.2f} forward passes, {speed}")
    rates(x, model, settings, results["nats"], archive)


if __name__ == "__main__":
    main()
