"""One Triton kernel for a row: on a processor triton's interpreter runs it, slowly, and it draws the scan's images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import images, random_cond, tiny_model

import nextpixel
from nextpixel.compiled import why_not_one_kernel
from nextpixel.errors import InputError
from nextpixel.likelihoods import Categorical, Guided

TESTS = Path(__file__).parent

# Run by a process of its own: triton decides once, when it is imported, whether it interprets.
CASES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tiny import images, random_cond, tiny_model

def same(name, shape, levels, dtype=torch.float64, size=None, cond=None, **how):
    model = tiny_model(name, shape, levels, **how.pop("model", {})).to(dtype)
    a, b = (model.sample(1, cond, seed=3, method=m, size=size, **how) for m in ("cached", "one-kernel"))
    assert torch.equal(a, b), (name, levels, a, b)

categorical = {"likelihood": "categorical"}
same("gated-pixelcnn", (1, 3, 8), 2)
same("gated-pixelcnn", (3, 3, 3), 5, temperature=0.7)
same("gated-pixelcnn", (1, 2, 3), 2, dtype=torch.float32)
same("pixelcnn", (2, 2, 4), 3, model={"inputs": "embedding"})
same("pixelcnn++", (1, 4, 4), 4, model=categorical)
same("row-lstm", (1, 3, 3), 3)
same("diagonal-bilstm", (1, 3, 3), 3)
same("multiscale", (1, 4, 4), 2)
model = tiny_model("gated-pixelcnn", (2, 3, 3), 4, "labels")
cond, x, known = random_cond(model, 2), images(model), images(model, seed=8) == 0
a, b = (model.complete(x, known, 1, cond, guidance=2.0, method=m) for m in ("cached", "one-kernel"))
assert torch.equal(a, b)
print("all equal")
"""


@pytest.mark.slow
def test_the_interpreted_kernel_draws_the_scan_s_images():
    pytest.importorskip("triton", reason="triton comes with torch for CUDA; its interpreter is what runs the kernel here")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", CASES, str(TESTS)], capture_output=True, text=True, env=environment, check=False)
    assert run.stdout.strip() == "all equal", run.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("name", nextpixel.MODELS)
def test_the_kernel_draws_the_scan_s_images_on_a_gpu(name):
    model = tiny_model(name, (3, 6, 7), 5, "labels", **({} if name == "multiscale" else {"likelihood": "categorical"})).cuda()
    a, b = (model.sample(2, random_cond(model, 2), seed=2, method=method) for method in ("cached", "one-kernel"))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("device", "dtype", "law", "reason"),
    [
        ("cpu", torch.float32, Categorical(1, 2), "runs on a CUDA device, not on cpu"),
        ("cuda", torch.bfloat16, Categorical(1, 2), "float32 or float64, not torch.bfloat16"),
        ("cuda", torch.float32, nextpixel.likelihoods.DiscretizedLogisticMixture(1, 4), "law 'logistic-mixture'"),
    ],
)
def test_reasons_against_one_kernel(device, dtype, law, reason):
    assert reason in why_not_one_kernel(torch.device(device), dtype, law)
    assert reason in why_not_one_kernel(torch.device(device), dtype, Guided(law, 2.0))


def test_a_processor_has_no_kernel():
    model = tiny_model("pixelcnn")
    with pytest.raises(InputError, match="method 'one-kernel': one kernel runs on a CUDA device, not on cpu"):
        model.complete(images(model), torch.tensor(False), method="one-kernel")
