"""`nextpixel bench`: how fast each architecture samples and trains here, beside what its arithmetic would allow."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import add_device, add_force, add_json, find_device, pair
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from nextpixel.results.measurement import Measurement

MOST = 2**14  # of anything that is counted


def add_bench(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("models", nargs="*", help="architectures (default: all)")
    parser.add_argument("--preset", help="a preset of each model, instead of sizes chosen to compare")
    parser.add_argument("--size", help="HxW of the images, instead of the model's own")
    parser.add_argument("--batch", type=list[int], default=[1, 16, 64, 256], help="images drawn side by side")
    parser.add_argument("--training_batch", type=int, default=32, help="images of a training step; 0 measures none")
    parser.add_argument("--compile", action="store_true", help="compile the training step (minutes)")
    parser.add_argument(
        "--sizes", type=list[int], default=[], help="sides of square images, to see how cost grows, such as [16,32,64,128]"
    )
    parser.add_argument("--size_batch", type=int, default=16, help="images side by side for --sizes")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is timed; medians are printed")
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    parser.add_argument("--no_naive", action="store_true", help="leave out the naive sampler")
    add_device(parser)
    add_json(parser)
    add_force(parser)
    parser.add_argument("--out", default="bench", help="a folder for bench.json, bench.md and the plots")


def run_bench(args: Any) -> None:
    """Measure, print, and write."""
    import torch

    from nextpixel.bench import report, suite
    from nextpixel.cli.measured import open_measured
    from nextpixel.files import require_writable
    from nextpixel.machine import peak

    _check(args)
    measured, console = open_measured(args)
    require_writable(Path(args.out) / "bench.json")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = str(find_device(args.device))
    cases = suite.cases(args.models, args.preset, None if args.size is None else pair(args.size))
    out = Path(args.out)
    peaks = {"float32": peak(torch.float32, device), "bf16": peak(torch.bfloat16, device)}
    console.print(report.describe_peaks(peaks), highlight=False)
    sampling, training, sizes = [], [], []
    for case in cases:
        for times in suite.measure_sampling(case, args.batch, args.rounds, device=device, naive=not args.no_naive):
            sampling.append(times)
            console.print(_line(report.SAMPLING, report.sampling_rows([times])[0]), highlight=False)
        if args.training_batch:
            training.append(suite.measure_training(case, args.training_batch, args.rounds, args.compile, device))
            console.print(_line(report.TRAINING, report.training_rows(training[-1:])[0]), highlight=False)
        for side in args.sizes:
            sized = case.sized(side, side)
            sizes += suite.measure_sampling(sized, [args.size_batch], args.rounds, device=device, naive=not args.no_naive)
            console.print(_line(report.SIZES, report.size_rows(sizes[-1:])[0]), highlight=False)
    for path in _write(out, peaks, sampling, training, sizes):
        console.print(str(path), highlight=False)
    measured.write(*(partial(one, **also) for one, also in _measurements(sampling, training, sizes)))


def _measurements(sampling: list, training: list, sizes: list) -> Iterator[tuple[Callable[..., "Measurement"], dict[str, Any]]]:
    """Each figure of each line, in medians of its rounds, as a measurement that lacks the facts that all share."""
    from nextpixel.results.measurement import Measurement

    for kind, lines in (("sampling", sampling), ("size", sizes)):
        for times in lines:
            name = f"bench-{kind}-{times.label}-{times.batch}-{times.shape[1]}x{times.shape[2]}"
            also = {"batch": times.batch, "shape": list(times.shape), "parameters": times.parameters, "passes": times.passes}
            also["forward_seconds"] = statistics.median(times.forward)
            yield partial(Measurement, name, statistics.median(times.drawing), "seconds", seed=0), {"also": also}
    for step in training:
        also = {"batch": step.batch, "precision": step.precision, "flops_per_second": step.flops_per_second}
        name = f"bench-training-{step.label}-{step.batch}"
        yield partial(Measurement, name, step.milliseconds_per_image, "milliseconds per image", seed=0), {"also": also}


def _check(args: Any) -> None:
    for name, least in (("rounds", 1), ("training_batch", 0), ("size_batch", 1), ("threads", 1)):
        value = args[name]
        if value is not None and not least <= value <= MOST:
            raise InputError(f"--{name} is {value}: expected from {least} to {MOST}")
    for name in ("batch", "sizes"):
        if any(not 1 <= value <= MOST for value in args[name]):
            raise InputError(f"--{name} is {args[name]}: expected numbers from 1 to {MOST}")


def _line(columns: tuple[str, ...], cells: tuple[str, ...]) -> str:
    return "   ".join(f"{name} {cell}" if k else cell for k, (name, cell) in enumerate(zip(columns, cells, strict=True)) if cell)


def _write(out: Path, peaks: dict[str, float], sampling: list, training: list, sizes: list) -> list[Path]:
    from nextpixel.bench import report
    from nextpixel.files import write_text

    tables = [(report.SAMPLING, report.sampling_rows(sampling)), (report.TRAINING, report.training_rows(training))]
    tables.append((report.SIZES, report.size_rows(sizes)))
    text = "\n\n".join([report.describe_peaks(peaks), *(report.markdown(*table) for table in tables if table[1])])
    written = [out / "bench.json", out / "bench.md"]
    report.write_json(written[0], peaks, sampling, training, sizes)
    write_text(written[1], text + "\n")
    for found, draw, name in ((sampling, report.draw_sampling, "bench.png"), (sizes, report.draw_sizes, "sizes.png")):
        if found:
            draw(found, out / name)
            written.append(out / name)
    return written
