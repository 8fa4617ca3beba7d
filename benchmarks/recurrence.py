"""One training step of a PixelRNN beside the same network with plain double loops, in one run, interleaved, medians.

    python benchmarks/recurrence.py [--model row-lstm diagonal-bilstm] [--batch 16] [--rounds 5]

The plain version visits one place after the other in Python, as the equations are written; both have the same weights, and their
losses are compared before anything is timed. Then the share of the parts of our step, from torch's profiler.
"""

import argparse
import copy
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import profile

import nextpixel
from nextpixel.layers.diagonal_lstm import DiagonalBiLSTMLayer
from nextpixel.layers.lstm import RowLSTMLayer
from nextpixel.machine import timed

PRESETS = {"row-lstm": ["mnist"], "diagonal-bilstm": ["mnist", "mnist-1x32"]}
PARTS = {"_Run": "recurrence, forward", "_Gradient": "recurrence, gradient"}


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    o, f, i, g = gates.chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class PlainRow(nn.Module):
    """A Row LSTM, place by place."""

    def __init__(self, layer: RowLSTMLayer) -> None:
        super().__init__()
        self.layer, self.features = layer, layer.features

    def forward(self, x: Tensor, h: None) -> Tensor:
        layer, (batch, _, height, width) = self.layer, x.shape
        side, gates = layer.kernel_size // 2, layer.input_to_state(x)
        above, c_above = layer.h_above.expand(batch, width, -1), layer.c_above.expand(batch, width, -1)
        rows = []
        for i in range(height):
            padded, states, cells = F.pad(above, (0, 0, side, side)), [], []
            for j in range(width):
                earlier = padded[:, j : j + layer.kernel_size].flatten(1)
                state, c = cell(gates[:, :, i, j] + earlier @ layer.state_to_state.flatten(1).t(), c_above[:, j])
                states.append(state)
                cells.append(c)
            above, c_above = torch.stack(states, 1), torch.stack(cells, 1)
            rows.append(above)
        return torch.stack(rows, 1).permute(0, 3, 1, 2)


class PlainDiagonal(nn.Module):
    """A Diagonal BiLSTM, place by place."""

    def __init__(self, layer: DiagonalBiLSTMLayer) -> None:
        super().__init__()
        self.layer, self.features = layer, layer.features

    def forward(self, x: Tensor, h: None, image: Tensor | None = None) -> Tensor:
        layer = self.layer
        right = layer.to_right_state(x)
        if image is not None:
            right = right + layer.image_to_right_state(image)
        left = self.run(layer.to_left_state(x), layer.state_to_state[0])
        return left + F.pad(self.run(right.flip(3), layer.state_to_state[1]).flip(3), (0, 0, 1, -1))

    def run(self, gates: Tensor, weight: Tensor) -> Tensor:
        batch, _, height, width = gates.shape
        zeros = gates.new_zeros(batch, self.features)
        above, rows = [zeros] * width, []
        for i in range(height):
            state, c, states = zeros, zeros, []
            for j in range(width):
                state, c = cell(gates[:, :, i, j] + torch.cat([state, above[j]], 1) @ weight.t(), c)
                states.append(state)
            above = states
            rows.append(torch.stack(states, 2))
        return torch.stack(rows, 2)


def plain(model: nn.Module) -> nn.Module:
    """The same network, with its own copy of the weights, in plain loops."""
    model = copy.deepcopy(model)
    for block in model.body:
        block.lstm = PlainRow(block.lstm) if isinstance(block.lstm, RowLSTMLayer) else PlainDiagonal(block.lstm)
    return model


def step(model: nn.Module, x: Tensor, precision: str) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = -model.log_prob(x).mean()
    model.zero_grad()
    loss.backward()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {args.batch}, {args.rounds} rounds")
    print("| network | ms per image: plain loops, float32 | ours, float32 | ours, bf16 | times faster, float32 |")
    print("|---|---|---|---|---|")
    shares = []
    for name in args.model:
        for preset in PRESETS[name]:
            torch.manual_seed(0)
            model = nextpixel.MODELS[name](**nextpixel.MODELS[name].presets[preset]).train()
            reference, x = plain(model), torch.randint(2, (args.batch, *model.shape))
            runs = {
                "plain": lambda reference=reference, x=x: step(reference, x, "float32"),
                "float32": lambda model=model, x=x: step(model, x, "float32"),
                "bf16": lambda model=model, x=x: step(model, x, "bf16"),
            }
            losses = {key: run() for key, run in runs.items()}
            if abs(losses["plain"] - losses["float32"]) > 1e-3:
                raise SystemExit(f"the two networks disagree: {losses}")
            seconds = {key: [] for key in runs}
            for _ in range(args.rounds):
                for key, run in runs.items():
                    seconds[key].append(timed(run))
            ms = {key: statistics.median(values) / args.batch * 1e3 for key, values in seconds.items()}
            times = statistics.median(p / f for p, f in zip(seconds["plain"], seconds["float32"], strict=True))
            label = f"{name} {preset}"
            print(f"| {label} | {ms['plain']:.1f} | {ms['float32']:.1f} | {ms['bf16']:.1f} | {times:.1f} |", flush=True)
            with profile() as found:
                runs["bf16"]()
            events = {event.key: event.cpu_time_total for event in found.key_averages()}
            total = sum(event.self_cpu_time_total for event in found.key_averages())
            parts = ", ".join(f"{what} {events[key] / total:.0%}" for key, what in PARTS.items())
            shares.append(f"{label}, bf16: {parts}, the rest (products over all places, head, likelihood) around them")
    print("\n".join(["", *shares]))


if __name__ == "__main__":
    main()
