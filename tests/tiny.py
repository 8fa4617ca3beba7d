"""Tiny models of any registered class with weights that hide nothing: every bias, every masked weight is non-zero."""

import torch

from nextpixel import MODELS, Labels, SpatialMap, Vector

CONDITIONS = ("none", "labels", "vector", "spatial-map")


def tiny_model(name, shape=(1, 3, 4), levels=3, condition="none", seed=1, **overrides):
    """The class's preset "tiny" in float64 and eval mode, all parameters drawn anew from a normal law."""
    condition = {"none": None, "labels": Labels(4), "vector": Vector(5), "spatial-map": SpatialMap(2)}[condition]
    cls = MODELS[name]
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


def random_cond(model, batch=2, size=None, seed=3):
    """A random condition for `batch` images, or None for an unconditional model."""
    generator = torch.Generator().manual_seed(seed)
    kind, normal = model.condition, {"generator": generator, "dtype": torch.float64}
    if isinstance(kind, Labels):
        return torch.randint(kind.features, (batch,), generator=generator)
    if isinstance(kind, Vector):
        return torch.randn(batch, kind.features, **normal)
    if isinstance(kind, SpatialMap):
        return torch.randn(batch, kind.features, *(size or model.shape[1:]), **normal)
    return None
