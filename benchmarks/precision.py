"""The fast way to train beside plain float32: the same losses? Writes docs/images/training-precision.png.

    python benchmarks/precision.py [--steps 200] [--seeds 4] [--out docs/images/training-precision.png]

Small models learn scikit-learn's digits, in float32 as PyTorch runs it, and in bf16 with channels_last, compiled. Both take one
fused Adam step per batch, and begin with the same weights, batches and learning rates. Float32 is repeated with further seeds of
all of these: what two seeds differ by is the noise that the difference of the two ways is measured by.
"""

import argparse
from pathlib import Path
from statistics import fmean, stdev

import torch
from matplotlib.figure import Figure

import nextpixel
from nextpixel.data.images import Images
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.objective import Likelihood, optimise, set_learning_rate
from nextpixel.training.optimisation import learning_rate_factor

# PixelCNN++ without dropout: the two ways draw other random numbers, which would be noise of one seed too.
MODELS = {
    "gated-pixelcnn": {"features": 32, "blocks": 6, "kernel_size": 3, "head_features": 64},
    "pixelcnn++": {"features": 16, "blocks": 1, "stages": 2, "dropout": 0.0},
}
SMOOTH = 10  # steps on either side that a point of the curves is the mean of
LAST = 50  # steps that a curve's end is the mean of


def train(name: str, images: Images, steps: int, seed: int, fast: bool) -> list[float]:
    """The loss, bits/dim, of every step."""
    settings = TrainingSettings(batch_size=32, lr=2e-3, warmup=20, compile=fast)
    torch.manual_seed(seed)
    model = nextpixel.MODELS[name](shape=images.shape, levels=images.levels, **MODELS[name]).train()
    model.initialise(images.tensor(images.spread(64)))
    if fast:
        model.to(memory_format=torch.channels_last)
    objective, optimizer = Likelihood(model, settings), optimise(model, settings)
    order, losses = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        batch = images.tensor(torch.randint(len(images), (settings.batch_size,), generator=order).numpy())
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss = objective.loss((batch, None))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        set_learning_rate(optimizer, settings.lr * learning_rate_factor(settings, step, steps))
        optimizer.step()
        losses.append(loss.item())
    return losses


def smooth(losses: list[float]) -> list[float]:
    return [fmean(losses[max(0, k - SMOOTH) : k + SMOOTH + 1]) for k in range(len(losses))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("docs/images/training-precision.png"))
    args = parser.parse_args()
    images = load(DataSettings(source="digits", levels=17)).train
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    print(f"bits/dim, the mean of the last {LAST} of {args.steps} steps")
    print("| model | float32 | bf16, channels_last, compiled | float32, other seeds | largest difference, smoothed |")
    print("|---|---|---|---|---|")
    for axes, name in zip(figure.subplots(1, len(MODELS)), MODELS, strict=True):
        plain = [train(name, images, args.steps, seed, fast=False) for seed in range(args.seeds)]
        fast = train(name, images, args.steps, 0, fast=True)
        ends = [fmean(losses[-LAST:]) for losses in plain]
        gap = max(abs(a - b) for a, b in zip(smooth(plain[0]), smooth(fast), strict=True))
        others = f"{fmean(ends[1:]):.4f} ± {stdev(ends):.4f}"
        print(f"| {name} | {ends[0]:.4f} | {fmean(fast[-LAST:]):.4f} | {others} | {gap:.4f} |", flush=True)
        for k, losses in enumerate(plain[1:]):
            axes.plot(smooth(losses), color="0.8", linewidth=1, label=None if k else "float32, other seeds")
        axes.plot(smooth(plain[0]), color="tab:blue", linewidth=2.5, label="float32")
        axes.plot(smooth(fast), color="tab:orange", linewidth=1.2, label="bf16, channels_last, compiled")
        end = ends[0]
        axes.set(title=name, xlabel="step", ylabel="bits/dim", ylim=(end - 0.3, end + 1.5))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
