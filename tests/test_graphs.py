"""The scan on a GPU: on a processor a tape of its calls stands for a graph, and draws the same images; a GPU has the graphs."""

import pytest
import torch
from pairs import Some, pairs
from tiny import CONDITIONS, FEW, images, random_cond, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nextpixel
from nextpixel.compiled import cuda_graphs as graphs
from nextpixel.likelihoods import LIKELIHOODS
from nextpixel.sampling.draw import METHODS, guided_likelihood
from nextpixel.scan.job import DrawJob

each_model = pytest.mark.parametrize("name", nextpixel.MODELS)


class Tape(TorchDispatchMode):
    """What a CUDA graph keeps of a function: torch's calls, with the memory and the numbers of the one time that it was captured.

    A replay runs these calls, and no Python: what Python computes anew for each row, or what a call gives that another memory
    holds next time, is missing in it, as it is in a graph.
    """

    # Calls that wait for the device, which a capture forbids.
    WAITS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal")

    def __init__(self, function):
        super().__init__()
        self.calls, self.made = [], {}
        function()  # as `captured` does outside of the capture
        with self:
            function()
        # A capture runs nothing: whatever it has made is empty until a replay.
        for tensor in self.made.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else -1)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert name not in self.WAITS, f"{name} waits for the device"
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        fresh = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in given]
        for tensor in fresh:
            self.made[tensor.untyped_storage().data_ptr()] = tensor
        if fresh or func._schema.is_mutable:  # a view is no call of the device's
            self.calls.append((func, args, kwargs or {}, fresh))
        return result

    def __call__(self):
        for func, args, kwargs, made in self.calls:
            result = func(*args, **kwargs)
            for tensor, again in zip(made, [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)], strict=bool(made)):
                tensor.copy_(again)


@pytest.fixture
def by_graphs(monkeypatch):
    """Let "compiled" run the functions of the GPU on this processor, where a tape stands for a graph."""
    replays = []

    def replay(function, device):
        replays.append(Tape(function))
        return replays[-1]

    monkeypatch.setitem(METHODS, "compiled", graphs.scan)
    monkeypatch.setattr(graphs, "captured", replay)
    return replays


@pairs(name=nextpixel.MODELS, condition=Some(FEW, CONDITIONS))
def test_rows_draw_the_scan_s_images(name, condition, by_graphs):
    model = tiny_model(name, (3, 5, 6), levels=5, condition=condition)
    cond, x, known = random_cond(model, 2), images(model), images(model, seed=8) == 0
    a, b = (model.sample(2, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
    a, b = (model.complete(x, known, 2, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
    assert all(tape.calls for tape in by_graphs)
    assert by_graphs


def test_a_tape_tells_what_a_graph_would_not_do():
    """What Python counts, or makes outside of a call, does not change when a graph is replayed."""
    x, out, rows = torch.zeros(3), torch.zeros(3), []

    def counts():
        rows.append(1)
        out.copy_(x + len(rows))

    tape = Tape(counts)
    x.fill_(10)
    tape()
    assert len(rows) == 2
    assert out.tolist() == [12, 12, 12]
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        Tape(lambda: out.fill_(x.sum().item()))


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
        graphs.scan(model, DrawJob(x, noise, None, h, guided_likelihood(model, guidance), 0.7))
        assert torch.equal(x.to(torch.uint8), model.sample(3, method="cached", **how))


@each_model
def test_a_graph_for_each_kind_of_row(name, by_graphs):
    model, counts = tiny_model(name, (1, 13, 8)), []
    model.sample(2, method="compiled", progress=lambda *count: counts.append(count))
    kinds = {"pixelcnn++": 3, "multiscale": 1 + 2}
    assert len(by_graphs) == kinds.get(name, 1)
    rows = sum(-(-13 // stride) for stride in model.strides)
    assert counts == [(row, rows) for row in range(1, rows + 1)]


@pytest.mark.gpu
@pairs(name=nextpixel.MODELS, condition=Some(["none", "spatial-map"], ["none", "labels", "spatial-map"]))
def test_graphs_draw_the_scan_s_images_on_a_gpu(name, condition):
    model = tiny_model(name, (3, 12, 13), levels=5, condition=condition).cuda()
    cond = random_cond(model, 4)
    a, b = (model.sample(4, cond, seed=2, method=method) for method in ("cached", "compiled"))
    assert torch.equal(a, b)
