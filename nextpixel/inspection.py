r"""What a place of the output depends on, measured: the Jacobian of the network, place by place.

.. math:: I_{yx} = \sum_{p, f} \left| \frac{\partial\, \text{params}_{p, i, j}}{\partial\, \text{inputs}_{f, y, x}} \right|

An autoregressive model has I = 0, exactly, at (i, j) and everywhere after it in its order (else it leaks), and I > 0 at every
place before it that it can use. Places before it that lie among the used ones with I = 0 are the blind spot of van den Oord et
al. 2016, arXiv:1606.05328, Figure 1.

Contexts as a picture: what a place reaches, its blind spot, what is out of reach, and leaks.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextpixel.errors import InputError
from nextpixel.files import write_aside
from nextpixel.layers.masked import Mask, MaskedConv2d
from nextpixel.models.base import AutoregressiveModel

Network = Callable[[Tensor], Tensor]

SAMPLES = 8
WEIGHT_NOISE = 1e-3


LEAK, BLIND, UNREACHED, FUTURE = "#d62728", "#f5a31a", "#f4f1e8", "#c9c9c9"


@dataclass(frozen=True, eq=False)
class Context:
    """The measured context of one place.

    Args:
        influence: I, float64 (H, W).
        place: (i, j).
        order: when each place's turn comes, (H, W); by default raster order.

    Example:
        >>> influence = np.array([[1.0, 0.5, 0.0], [0.2, 0.0, 0.0]])
        >>> Context(influence, place=(1, 1)).summary()
        'at (1, 1): 3 of 4 earlier places reached, 0 in the blind spot, 0 leaks'
    """

    influence: np.ndarray
    place: tuple[int, int]
    order: np.ndarray | None = None

    @property
    def past(self) -> np.ndarray:
        """Places whose turn comes before that of `place`, bool (H, W)."""
        order = np.arange(self.influence.size).reshape(self.influence.shape) if self.order is None else self.order
        return order < order[self.place]

    @property
    def reached(self) -> np.ndarray:
        """Places with influence, bool (H, W)."""
        return self.influence > 0

    @property
    def leaks(self) -> np.ndarray:
        """Reached places at or after `place`: an autoregressive model has none."""
        return self.reached & ~self.past

    @property
    def unreached_past(self) -> np.ndarray:
        """Places before `place` without influence."""
        return self.past & ~self.reached

    @property
    def blind_spot(self) -> np.ndarray:
        """Places before `place` without influence, inside the bounding box of those with influence."""
        rows, columns = np.nonzero(self.reached)
        box = np.zeros_like(self.past)
        if len(rows) > 0:
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        return self.unreached_past & box

    def summary(self) -> str:
        """The counts in one line."""
        return f"at {self.place}: {', '.join(self.counts())}"

    def counts(self) -> tuple[str, str, str]:
        """How many earlier places are reached, lie in the blind spot, and how many leaks there are, in words."""
        leaks = self.leaks.sum()
        return (
            f"{(self.reached & self.past).sum()} of {self.past.sum()} earlier places reached",
            f"{self.blind_spot.sum()} in the blind spot",
            "1 leak" if leaks == 1 else f"{leaks} leaks",
        )


def context(
    network: Network,
    shape: tuple[int, int, int],
    place: tuple[int, int],
    colours: int = 1,
    samples: int = SAMPLES,
    seed: int = 0,
    order: np.ndarray | None = None,
) -> Context:
    """Measure the context of one place of any differentiable function.

    The function should be in eval mode and in float64. The Jacobian's column sums are read through random weightings of the
    outputs at that place, so the influence is an estimate, but what is zero stays exactly zero and nothing else becomes zero.

    Args:
        network: inputs, float64 (1, F, H, W) -> params (1, P, H, W).
        shape: (F, H, W) of its inputs.
        place: (i, j).
        colours: into how many equal parts params and inputs are split, one per channel. Part c of the params may use the parts
            below c of the inputs of its own place, so these are not counted there.
        samples: random inputs from -1 to 1, each with its own weighting; several, because one may hit a dead ReLU.
        seed: of both.
        order: of the result, as in `Context`.

    Raises:
        InputError: the place is outside the image, a derivative is not finite, or the parts are not equal.

    Example:
        >>> conv = nn.Conv2d(1, 8, kernel_size=3, padding=1).double()
        >>> context(conv, shape=(1, 5, 7), place=(2, 3)).summary()
        'at (2, 3): 4 of 17 earlier places reached, 0 in the blind spot, 5 leaks'
    """
    sensitivity = _sensitivity(network, shape, place, colours, samples, seed)
    for c in range(colours):
        sensitivity[c, :c, :, place[0], place[1]] = 0
    return Context(sensitivity.sum(axis=(0, 1, 2)), place, order)


def model_context(model: AutoregressiveModel, place: tuple[int, int], cond: Any = None) -> Context:
    """Measure the context of one place of a model, in float64 on the CPU; the model itself is left as it is.

    Args:
        model: any model.
        place: (i, j).
        cond: a condition for one image, if the model needs one.

    Raises:
        InputError: as `context`, or the condition does not fit.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.GatedPixelCNN(shape=(1, 8, 9), levels=2, features=8, blocks=8)
        >>> model_context(model, place=(7, 8)).summary()
        'at (7, 8): 71 of 71 earlier places reached, 0 in the blind spot, 0 leaks'
    """
    order = model.order(*model.shape[1:])[0].numpy()
    return context(*_differentiable(model, cond), place, model.colours, order=order)


def colour_context(model: AutoregressiveModel, place: tuple[int, int] | None = None, cond: Any = None) -> np.ndarray:
    """Measure which channels of a place the distribution of each of its channels depends on, through the network.

    Args:
        model: any model. With a categorical likelihood n = C; where the likelihood couples the channels itself, n = 1.
        place: (i, j), by default the middle.
        cond: a condition for one image, if the model needs one.

    Returns:
        bool (n, n): [c, c'] is whether the distribution of channel c depends on channel c' of the same place. It must be strictly
        lower triangular (c' < c).

    Raises:
        InputError: as `model_context`.

    Example:
        >>> import nextpixel
        >>> colour_context(nextpixel.GatedPixelCNN(shape=(3, 4, 5), levels=2, features=12, blocks=2)).astype(int)
        array([[0, 0, 0],
               [1, 0, 0],
               [1, 1, 0]])
    """
    network, shape = _differentiable(model, cond)
    i, j = place or (shape[1] // 2, shape[2] // 2)
    return _sensitivity(network, shape, (i, j), model.colours)[..., i, j].sum(axis=2) > 0


def mask_experiment(kernel_size: int = 3, layers: int = 3, size: int = 7) -> dict[str, Context]:
    """Why the first layer has mask A and all others mask B: the context of the middle of a square image under linear stacks.

    Args:
        kernel_size: odd side of the kernels.
        layers: masked convolutions in each stack, at least 1.
        size: height and width.

    Example:
        >>> for name, context in mask_experiment().items():
        ...     print(f"{name}: {context.summary()}")
        one mask A, then 2 mask B: at (3, 3): 21 of 24 earlier places reached, 3 in the blind spot, 0 leaks
        only mask A: at (3, 3): 16 of 24 earlier places reached, 8 in the blind spot, 0 leaks
        only mask B (leaks): at (3, 3): 21 of 24 earlier places reached, 3 in the blind spot, 1 leak
    """
    stacks: dict[str, list[Mask]] = {
        f"one mask A, then {layers - 1} mask B": ["A", *["B"] * (layers - 1)],
        "only mask A": ["A"] * layers,
        "only mask B (leaks)": ["B"] * layers,
    }
    features = 8
    contexts = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, masks in stacks.items():
            sizes = [1, *[features] * layers]
            stack = [MaskedConv2d(sizes[k], features, kernel_size, mask) for k, mask in enumerate(masks)]
            contexts[name] = context(nn.Sequential(*stack).double(), (1, size, size), (size // 2, size // 2))
    return contexts


def _differentiable(model: AutoregressiveModel, cond: Any) -> tuple[Network, tuple[int, int, int]]:
    """The model's network as a function of its float inputs, and the shape (F, H, W) of these.

    On the CPU, since a GPU's convolutions by Fourier transform turn exact zeros into small numbers. A little noise is added to
    the weights: a fresh model has zeros, in masked places and perhaps in the last layer, that would hide a mask that is not
    applied and a dependency that training will use.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in twin.requires_grad_(False).parameters():
        weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype), alpha=WEIGHT_NOISE)
    channels, height, width = twin.shape
    h = twin.encode_condition(cond, 1, height, width)
    features = twin.encode(torch.zeros(1, channels, height, width, dtype=torch.long)).shape[1]
    return lambda inputs: twin.network(inputs, h), (features, height, width)


def _sensitivity(
    network: Network,
    shape: tuple[int, int, int],
    place: tuple[int, int],
    colours: int,
    samples: int = SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Sum over samples of |d (w . params of colour c at the place) / d inputs|, (colour c, colour c', F of c', H, W)."""
    (features, height, width), (i, j) = shape, place
    if not (0 <= i < height and 0 <= j < width):
        raise InputError(f"place ({i}, {j}) is outside an image of {height} rows and {width} columns")
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(colours, features, height, width, dtype=torch.float64)
    for _ in range(samples):
        inputs = torch.rand(1, features, height, width, generator=generator, dtype=torch.float64) * 2 - 1
        inputs.requires_grad_()
        params = network(inputs)[0, :, i, j]
        if len(params) % colours != 0 or features % colours != 0:
            raise InputError(f"{len(params)} params and {features} inputs cannot be split into {colours} equal parts")
        # Normal and not +-1: equal derivatives of two outputs then cancel with probability 0.
        weights = torch.randn(len(params), generator=generator, dtype=torch.float64)
        for c, projection in enumerate((weights * params).reshape(colours, -1).sum(dim=1)):
            (gradient,) = torch.autograd.grad(projection, inputs, retain_graph=True)
            total[c] += gradient[0].abs()
    if not total.sum().isfinite():
        raise InputError(f"the network's derivative at place ({i}, {j}) is not finite")
    return total.reshape(colours, colours, features // colours, height, width).numpy()


def draw(contexts: dict[str, Context], path: str | Path) -> None:
    """Draw contexts side by side as one PNG, each under its name and its counts.

    Raises:
        InputError: there are none, or the file cannot be written.
    """
    if not contexts:
        raise InputError("there are no contexts to draw")
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # not pyplot: it keeps global state and looks for a screen
    from matplotlib.patches import Patch, Rectangle

    tallest = max(context.influence.shape[0] / context.influence.shape[1] for context in contexts.values())
    figure = Figure(figsize=(max(3.1 * len(contexts), 6.2), 3.1 * tallest + 1.6), dpi=150, layout="constrained")
    blues = colormaps["Blues"]
    for axes, (name, context) in zip(figure.subplots(1, len(contexts), squeeze=False)[0], contexts.items(), strict=True):
        axes.imshow(_colours(context, blues))
        axes.set_anchor("S")
        height, width = context.influence.shape
        if max(height, width) <= 40:
            axes.set_xticks(np.arange(width + 1) - 0.5)
            axes.set_yticks(np.arange(height + 1) - 0.5)
            axes.grid(color="white", linewidth=15 / max(height, width))
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        i, j = context.place
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.5, zorder=3))
        reached, *others = context.counts()
        axes.set_title(name, fontsize=10, fontweight="bold", pad=30)
        axes.annotate(
            f"{reached}\n{', '.join(others)}", (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", fontsize=8
        )
    legend = [
        Patch(facecolor="none", edgecolor="black", label="the place"),
        Patch(color=blues(0.85), label="reached (darker: more influence)"),
        Patch(color=BLIND, label="blind spot"),
        Patch(facecolor=UNREACHED, edgecolor="#bbbbbb", label="earlier, out of reach"),
        Patch(color=FUTURE, label="later"),
        Patch(color=LEAK, label="leak"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3 if len(contexts) < 3 else 6, fontsize=8, frameon=False)
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", bbox_inches="tight", pad_inches=0.15)


def _colours(context: Context, blues: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """One RGB colour per place, (H, W, 3)."""
    from matplotlib.colors import to_rgb

    picture = np.empty((*context.influence.shape, 3))
    picture[:] = to_rgb(FUTURE)
    picture[context.unreached_past] = to_rgb(UNREACHED)
    picture[context.blind_spot] = to_rgb(BLIND)
    reached = context.reached & context.past
    if reached.any():
        strength = np.log10(context.influence[reached])
        # From the faintest blue that differs from "out of reach" to the darkest.
        span = max(float(np.ptp(strength)), 1e-9)
        picture[reached] = blues(0.35 + 0.6 * (strength - strength.min()) / span)[:, :3]
    picture[context.leaks] = to_rgb(LEAK)
    return picture
