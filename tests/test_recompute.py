"""Recomputation in training: the same gradients, and less that is kept for them, in every architecture."""

import pytest
import torch
from tiny import images, random_cond, tiny_model

from nextpixel import MODELS, load
from nextpixel.recipes.settings import TrainingSettings
from nextpixel.training.objective import Likelihood

each_model = pytest.mark.parametrize("name", list(MODELS))


def step(name, recompute, shape=(2, 5, 6), condition="vector", **sizes):
    """The gradients of a training step with dropout, and how many numbers were kept for them."""
    model = tiny_model(name, shape, condition=condition, **sizes).train()
    objective = Likelihood(model, TrainingSettings(recompute=recompute))
    kept = {}
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        loss = objective.loss((images(model, 3), random_cond(model, 3)))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, sum(kept.values())


@each_model
def test_recomputing_changes_no_gradient(name):
    (kept, _), (recomputed, _) = step(name, False), step(name, True)
    assert kept.keys() == recomputed.keys()
    for parameter, grad in kept.items():
        torch.testing.assert_close(recomputed[parameter], grad, rtol=1e-12, atol=1e-14, msg=parameter)


def deep(name):
    """Sizes with which blocks are most of a network."""
    if name == "multiscale":
        stage = {"features": 8, "blocks": 8, "head_features": 4}
        return {"stages": [{"stride": 2, "name": "gated-pixelcnn", **stage}, {"stride": 1, "name": "pixelcnn", **stage}]}
    return {"blocks": 2 if name == "pixelcnn++" else 8}


@each_model
def test_recomputing_keeps_fewer_numbers(name):
    sizes = {"shape": (1, 16, 16), "condition": "none", **deep(name)}
    (_, kept), (_, recomputed) = step(name, False, **sizes), step(name, True, **sizes)
    assert recomputed < kept / 2


@each_model
def test_recomputing_is_no_part_of_a_saved_model(name, tmp_path):
    model = tiny_model(name)
    Likelihood(model, TrainingSettings(recompute=True))
    assert model.recompute
    model.save(tmp_path)
    assert not load(tmp_path).recompute
