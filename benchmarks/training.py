r"""One training step: ms per image, the share of the machine's measured matrix-product peak, and peak memory.

    python benchmarks/training.py --model pixelcnn++ --preset small
    python benchmarks/training.py --model gated-pixelcnn --shape 1 28 28 --levels 2 --features 96 --blocks 10 --batch 64 \
        --likelihood categorical
    python benchmarks/training.py --model gated-pixelcnn --features 48 --blocks 6 --likelihood categorical logistic-mixture

`nextpixel bench` times one step per model; this tells likelihoods, precisions and their memory apart. Every line is measured in
a fresh process, so that memory is its own: data-dependent initialisation, warm-up (which compiles), then the median of single
steps (forward, likelihood, backward, Adam) on random images. FLOPs are those of convolutions and matrix products.
"""

import argparse
import itertools
import math
import multiprocessing
import resource
import statistics

import torch

import nextpixel
from nextpixel.machine import count_flops, peak, timed

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def measure(name: str, config: dict, precision: str, compiled: bool, batch: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = nextpixel.MODELS[name](**config).train().to(memory_format=torch.channels_last)
    x = torch.randint(model.levels, (batch, *model.shape))
    model.initialise(x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return -model.likelihood.log_prob(model(x), x).sum() / (x.numel() * math.log(2))

    flops = count_flops(lambda: loss().backward())
    compute = torch.compile(loss) if compiled else loss

    def step() -> None:
        optimizer.zero_grad()
        compute().backward()
        optimizer.step()

    return {
        "seconds": statistics.median([timed(step) for _ in range(rounds + 4)][4:]),
        "flops": flops,
        "peak": peak(DTYPES[precision]),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pixelcnn++", choices=list(nextpixel.MODELS))
    parser.add_argument("--preset", help="a preset of the model, instead of features and blocks")
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 32, 32], help="of the images, where no preset is given")
    parser.add_argument("--levels", type=int, default=256, help="of the images, where no preset is given")
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--dropout", type=float, help="another dropout than the model's own")
    parser.add_argument("--likelihood", nargs="+", default=["logistic-mixture"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--compile", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    cls = nextpixel.MODELS[args.model]
    sizes = {"shape": tuple(args.shape), "levels": args.levels, "features": args.features, "blocks": args.blocks}
    config = cls.presets[args.preset] if args.preset else sizes
    if args.dropout is not None:
        config = {**config, "dropout": args.dropout}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.model} {config}, batch {args.batch}")
    print("| likelihood | precision | compiled | parameters | ms per image | GFLOP/s | share of peak | peak memory, GB |")
    print("|---|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for law, precision, compiled in itertools.product(args.likelihood, args.precision, args.compile):
        with context.Pool(1) as pool:
            job = (args.model, {**config, "likelihood": law}, precision, bool(compiled), args.batch, args.rounds)
            found = pool.apply(measure, job)
        rate = found["flops"] / found["seconds"]
        print(
            f"| {law} | {precision} | {'yes' if compiled else 'no'} | {found['parameters']:,.0f} "
            f"| {found['seconds'] / args.batch * 1e3:.1f} | {rate / 1e9:.0f} | {rate / found['peak']:.0%} of "
            f"{found['peak'] / 1e9:.0f} | {found['gigabytes']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
