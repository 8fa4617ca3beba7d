"""Tiny models of any registered class with weights that hide nothing: every bias, every masked weight is non-zero.

And the two measurements on which the contract rests: the Jacobian, and how far a scan is from forward.
"""

import itertools

import torch

from nextpixel import MODELS, Combination, Encoded, Known, Labels, SpatialMap, Vector
from nextpixel.conditions import Condition

CONDITIONS = ("none", "labels", "vector", "spatial-map", "upsampled", "combination", "encoded", "known", "labels+known")
# The kinds that differ to what runs an encoded condition: none, one without places, one with, and all at once.
FEW = ("none", "labels", "spatial-map", "combination")


def tiny_condition(kind):
    """A fresh condition by its kind, or the given one: those with weights must not be shared between models."""
    if isinstance(kind, Condition):
        return kind
    if kind == "combination":
        return Combination(Labels(3), SpatialMap(2, (1, 2), maps=4), Vector(2))
    if kind == "labels+known":
        return Combination(Labels(3), Known(3, 1))
    kinds = {
        "labels": (Labels, 4),
        "vector": (Vector, 5),
        "spatial-map": (SpatialMap, 2),
        "upsampled": (SpatialMap, 2, (2, 3), 6),
        "encoded": (Encoded, 5, 6),
        "known": (Known, 4, 2),
    }
    make, *sizes = kinds.get(kind, (lambda: None,))
    return make(*sizes)


def tiny_model(name, shape=(1, 3, 4), levels=3, condition="none", seed=1, **overrides):
    """The class's preset "tiny" in float64 and eval mode, all parameters drawn anew from a normal distribution."""
    condition, cls = tiny_condition(condition), MODELS[name]
    model = cls(**{**cls.presets["tiny"], "shape": shape, "levels": levels, "condition": condition, **overrides}).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            # Kernels keep the size of what flows through; p[0].numel() is their fan-in, and 1 for a bias.
            p.normal_(0, p[0].numel() ** -0.5, generator=generator)
    return model.eval()


def images(model, batch=2, size=None, seed=2):
    """Random symbols for this model."""
    shape = (batch, model.shape[0], *(size or model.shape[1:]))
    return torch.randint(model.levels, shape, generator=torch.Generator().manual_seed(seed))


def random_cond(model, batch=2, size=None, seed=3, kind=None):
    """A random condition for `batch` images, or None for an unconditional model."""
    generator = torch.Generator().manual_seed(seed)
    kind, normal = kind or model.condition, {"generator": generator, "dtype": torch.float64}
    if isinstance(kind, Combination):
        return tuple(random_cond(model, batch, size, seed + k, part) for k, part in enumerate(kind.parts))
    if isinstance(kind, Encoded):
        return torch.randint(kind.levels, (batch, *kind.shape), generator=generator)
    if isinstance(kind, Known):
        return torch.randint(-1, kind.levels, (batch, model.shape[0], *(size or model.shape[1:])), generator=generator)
    if kind is not None and kind.source == "label":
        return torch.randint(kind.given, (batch,), generator=generator)
    if isinstance(kind, Vector):
        return torch.randn(batch, kind.features, **normal)
    if isinstance(kind, SpatialMap):
        sides = zip(size or model.shape[1:], kind.factor, strict=True)
        return torch.randn(batch, kind.given, *(-(-side // factor) for side, factor in sides), **normal)
    return None


def of_images(cond, choose):
    """What `choose` makes of a condition for many images, in each of its parts."""
    if isinstance(cond, tuple):
        return tuple(of_images(part, choose) for part in cond)
    return None if cond is None else choose(cond)


def turns(model, height, width):
    """When each symbol's turn comes, (C, H, W), by walking as the papers say: each grid from the coarsest, row by row."""
    order, turn = torch.full((model.shape[0], height, width), -1), 0
    for stride in model.strides:
        for i, j in itertools.product(range(0, height, stride), range(0, width, stride)):
            if order[0, i, j] < 0:
                order[:, i, j] = torch.arange(turn, turn := turn + model.shape[0])
    return order


def all_images(channels, height, width, levels):
    """Every image of this size, (levels ** (C * H * W), C, H, W)."""
    places = channels * height * width
    return torch.tensor(list(itertools.product(range(levels), repeat=places))).view(-1, channels, height, width)


@torch.no_grad()
def scan(model, x, cond=None, repeats=1, seed=4):
    """Step over x, yielding (c, i, j, params); what is not yet known at a step is garbage, other garbage at every step."""
    batch, channels, height, width = x.shape
    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(channels, height, width, dtype=torch.bool)
    image = torch.empty_like(x)

    def seen(stride=1):
        image.copy_(torch.where(known, x, torch.randint(model.levels, x.shape, generator=generator)))
        return image[:, :, ::stride, ::stride]

    parts = model.parts(seen(), model.encode_condition(cond, batch, height, width))
    for stride, (part, h) in zip(model.strides, parts, strict=True):
        cache = part.start(batch, h, seen(stride).shape[2:])
        for i in range(-(-height // stride)):
            part.begin_row(cache, seen(stride), i)
            for j in range(-(-width // stride)):
                chosen = known[0, i * stride, j * stride].item()
                for c in range(model.colours):
                    for _ in range(repeats):
                        params = part.step(cache, seen(stride), i, j, c)
                    if not chosen:
                        yield c, i * stride, j * stride, params.clone()
                    known[c if model.colours > 1 else slice(None), i * stride, j * stride] = True
        seen()  # a part may read all that the passes before it have chosen


def largest_gap(model, x, steps, cond=None):
    """How far a scan is from forward, over all places and all channels that a step promises."""
    expected = model(x, cond)
    per_colour = expected.shape[1] // model.colours
    gaps = [
        (params[:, : (c + 1) * per_colour] - expected[:, : (c + 1) * per_colour, i, j]).abs().max() for c, i, j, params in steps
    ]
    assert len(gaps) == x.shape[2] * x.shape[3] * model.colours
    return max(gaps)


def jacobian(model, x, cond=None):
    """Largest |d params / d input| by colour of the params and channel of the image, (colours, H, W, C, H, W)."""
    _, channels, height, width = x.shape
    h, inputs = model.encode_condition(cond, 1, height, width), model.encode(x).detach()
    with torch.no_grad():
        outputs = model.network(inputs, h)[0]
    # A copy of the image for each output: one pass back gives all the gradients.
    n = outputs.numel()
    copies = inputs.expand(n, *inputs.shape[1:]).clone().requires_grad_()
    each = model.network(copies, None if h is None else h.expand(n, *h.shape[1:])).flatten(1).diagonal()
    (full,) = torch.autograd.grad(each.sum(), copies)
    full = full.view(*outputs.shape, *inputs.shape[1:]).abs()
    return full.unflatten(3, (channels, -1)).amax(4).unflatten(0, (model.colours, -1)).amax(1)


def reach(name, shape, condition="none", **overrides):
    """The largest Jacobian of a few models: a ReLU that is dead in one of them hides nothing. And which entries may be there."""
    seeds = range(3)
    models = [tiny_model(name, shape, condition=condition, seed=seed, **overrides) for seed in seeds]
    found = [
        jacobian(model, images(model, 1, seed=seed), random_cond(model, 1)) for seed, model in zip(seeds, models, strict=True)
    ]
    order = turns(models[0], *shape[1:])
    return torch.stack(found).amax(0), order[: models[0].colours, :, :, None, None, None] > order
