"""The codec on real images: bit-exact and at the model's rate, for every architecture, likelihood, size and number of levels."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images
from test_data import shared
from tiny import tiny_model

from nextpixel import MODELS, Archive, compress, decompress
from nextpixel.coding.lanes import LaneCoder
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load as load_data
from nextpixel.likelihoods import LIKELIHOODS
from nextpixel.models import AutoregressiveModel

small = {"features": 4, "blocks": 1, "head_features": 4}
SETS = {"binarized_mnist/binarized_mnist.npz": 2, "mnist": 256, "cifar10": 256}


def of_test_set(name: str, levels: int, number: int) -> torch.Tensor:
    return load_data(DataSettings(source=shared(name), levels=levels))["test"].tensor()[:number]


@torch.no_grad()
def assert_exact_at_the_rate(model: AutoregressiveModel, x: torch.Tensor, above: float = 0.005, **settings) -> float:
    """Bits per dim of x, which decodes to itself and costs each image no more than 0.5 percent and 8 bytes above its log_prob."""
    data = compress(model, x, verify=False, **settings)
    assert torch.equal(decompress(model, data, limit=x.numel()), x.to(torch.uint8))
    stored = np.array([entry.stored for entry in Archive(data).entries])
    exact = LaneCoder(model).model
    nats = torch.cat([exact.log_prob(part) for part in x.split(16)])
    bytes_of_model = -nats.numpy() / np.log(2) / 8
    if settings.get("tile") is None:  # tiles know less
        assert (stored <= (1 + above) * bytes_of_model + 8).all()
    return 8 * stored.sum() / x.numel()


def trained(model: AutoregressiveModel, batches, lr: float = 3e-3) -> AutoregressiveModel:
    """The model after a step for each batch."""
    optimizer = torch.optim.Adam(model.float().train().parameters(), lr=lr)
    for x in batches:
        optimizer.zero_grad()
        model.bits_per_dim(x).mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_architecture_and_likelihood(name, architecture, likelihood):
    x = of_test_set(name, SETS[name], 4)
    model = tiny_model(architecture, tuple(x.shape[1:]), SETS[name], likelihood=likelihood).float()
    # A deep mixture of random weights finds these images less likely than noise (10 bits/dim), and magnifies errors the most.
    worst = (name, architecture, likelihood) == ("cifar10", "pixelcnn++", "logistic-mixture")
    assert_exact_at_the_rate(model, x, above=0.02 if worst else 0.005)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_number_of_levels(likelihood):
    for levels in range(2, 257):
        x = torch.from_numpy(load_digits().images[:3].astype(np.int64))[:, None] * (levels - 1) // 16
        assert_exact_at_the_rate(tiny_model("pixelcnn", (1, 8, 8), levels, likelihood=likelihood, **small).float(), x)


@pytest.mark.slow
def test_a_thousand_images_of_mnist():
    x = of_test_set("binarized_mnist/binarized_mnist.npz", 2, 1000)
    assert len(x) == 1000
    generator = torch.Generator().manual_seed(0)
    train = load_data(DataSettings(source=shared("binarized_mnist/binarized_mnist.npz"), levels=2))["train"].tensor()
    batches = (train[torch.randint(len(train), (32,), generator=generator)].long() for _ in range(200))
    model = trained(MODELS["pixelcnn"](shape=(1, 28, 28), levels=2, features=8, blocks=3), batches, lr=1e-2)
    assert assert_exact_at_the_rate(model, x) < 0.3


@pytest.fixture(scope="module")
def photographs():
    """Both photographs, (2, 3, 427, 640), and a model of colour that a minute on pieces of them has taught its trade."""
    x = torch.stack([torch.tensor(photo).permute(2, 0, 1) for photo in load_sample_images().images])
    generator = torch.Generator().manual_seed(0)

    def pieces():
        for _ in range(150):
            places = torch.stack([torch.randint(n, (16,), generator=generator) for n in (2, 427 - 24, 640 - 24)], 1).tolist()
            yield torch.stack([x[n, :, i : i + 24, j : j + 24] for n, i, j in places]).long()

    model = MODELS["pixelcnn"](shape=(3, 24, 24), levels=256, likelihood="logistic-mixture", features=24, blocks=3, mixtures=5)
    return x, trained(model, pieces())


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, (61, 64)])
def test_photographs(photographs, tile):
    x, model = photographs
    rate = assert_exact_at_the_rate(model, x, tile=tile)
    print(f"{rate:.4f} bits/dim")
    assert rate < 6.0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (427, 5), (31, 97)], ids=str)
def test_any_size_of_a_photograph_of_one_colour_and_noise(photographs, size):
    x, model = photographs
    height, width = size
    generator = torch.Generator().manual_seed(1)
    kinds = [x[0, :, -height:, -width:], torch.randint(256, (3, *size), generator=generator)]
    kinds += [torch.full((3, *size), value) for value in (0, 1, 128, 255)]
    assert_exact_at_the_rate(model, torch.stack([kind.long() for kind in kinds]))
