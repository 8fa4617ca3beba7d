"""The scan on a GPU: on a processor its functions run without a graph, and draw the same images; with a GPU the graphs do."""

import pytest
import torch
from tiny import CONDITIONS, images, random_cond, tiny_model

import nextpixel
from nextpixel.compiled import graphs
from nextpixel.compiled.request import Request
from nextpixel.likelihoods import LIKELIHOODS

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)


@pytest.fixture
def by_graphs(monkeypatch):
    """Let "compiled" run the functions of the GPU on this processor."""
    replays = []
    monkeypatch.setattr("nextpixel.models.sampling._run_programs", lambda m, how, *args: graphs.scan(m, *args))
    original = graphs.Replay.__init__
    monkeypatch.setattr(graphs.Replay, "__init__", lambda *args: (replays.append(1), original(*args))[1])
    return replays


@pytest.mark.parametrize("condition", CONDITIONS)
@each_model
def test_rows_draw_the_scan_s_images(name, condition, by_graphs):
    model = tiny_model(name, (3, 5, 6), levels=5, condition=condition)
    cond, x, known = random_cond(model, 2), images(model), images(model, seed=8) == 0
    a, b = (model.sample(2, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
    a, b = (model.complete(x, known, 2, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
    assert by_graphs


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_rows_draw_from_any_law(likelihood, guidance, by_graphs):
    model = tiny_model("gated-pixelcnn", (2, 4, 5), 9, "labels", likelihood=likelihood)
    how = {"cond": random_cond(model, 3), "guidance": guidance, "temperature": 0.7}
    if likelihood == "categorical":  # on a processor a mixture's temperature is no program: `compiled` would refuse it
        a, b = (model.sample(3, method=method, **how) for method in ("cached", "compiled"))
        assert torch.equal(a, b)
    else:
        x = torch.zeros(3, 2, 4, 5, dtype=torch.long)
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        h = model.encode_condition(how["cond"], 3, 4, 5)
        graphs.scan(model, Request(x, noise, None, h, model.guided_likelihood(guidance), 0.7))
        assert torch.equal(x.to(torch.uint8), model.sample(3, method="cached", **how))


@each_model
def test_a_graph_for_each_kind_of_row(name, by_graphs):
    model, counts = tiny_model(name, (1, 13, 8)), []
    model.sample(2, method="compiled", progress=counts.append)
    kinds = {"pixelcnn++": 3, "multiscale": 1 + 2}
    assert len(by_graphs) == kinds.get(name, 1)
    assert counts == list(range(1, sum(-(-13 // stride) for stride in model.strides) + 1))


@pytest.mark.gpu
@pytest.mark.parametrize("condition", ["none", "labels", "spatial-map"])
@each_model
def test_graphs_draw_the_scan_s_images_on_a_gpu(name, condition):
    model = tiny_model(name, (3, 12, 13), levels=5, condition=condition).cuda()
    cond = random_cond(model, 4)
    a, b = (model.sample(4, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
