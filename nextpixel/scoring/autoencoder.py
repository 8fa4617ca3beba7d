"""What a PixelCNN autoencoder is compared with (arXiv:1606.05328, section 3.3): a plain one, trained by squared error.

    x -> the same encoder -> code -> linear, transposed convolutions, ReLU -> brightness of every pixel

Its decoder can only give the mean of all images that have this code, which is blurred where they differ; the autoregressive
decoder draws one of them. The sizes, which are not published, are ours.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.conditions import Encoded
from nextpixel.data.images import Images
from nextpixel.layers.conditioning import Upsampler
from nextpixel.progress import track


class ConvAutoencoder(nn.Module):
    r"""Encoder e and convolutional decoder d, trained by squared error.

    .. math:: \hat x = d(e(x)), \qquad \min \; \mathbb{E} \, \lVert \hat x - x / (L - 1) \rVert^2

    Args:
        shape: (C, H, W) of the images.
        levels: L, symbols 0..L-1.
        dim: numbers of a code.
        maps: of each layer of both halves.

    Shapes:
        integers (B, C, H, W) -> brightness (B, C, H, W), about 0 to 1.

    Raises:
        InputError: a size below 1; images of another shape or other levels.

    Example:
        >>> ConvAutoencoder((1, 8, 8), levels=17, dim=10, maps=16)(torch.zeros(5, 1, 8, 8, dtype=torch.long)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, shape: tuple[int, int, int], levels: int, dim: int, maps: int) -> None:
        super().__init__()
        self.encoder = Encoded(dim, maps)
        self.encoder.prepare(shape, levels, codes=False)
        height, width = self.encoder.smallest
        self.first = nn.Sequential(nn.Linear(dim, maps * height * width), nn.ReLU(), nn.Unflatten(1, (maps, height, width)))
        self.upsampler = Upsampler(maps, maps, *(self.encoder.strides[::-1] or [(1, 1)]))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(maps, shape[0], 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.upsampler(self.first(self.encoder.encode(x)), self.encoder.shape[1:]))

    @classmethod
    def fit(
        cls,
        images: Images,
        dim: int,
        maps: int,
        steps: int,
        batch_size: int = 32,
        lr: float = 1e-3,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> "ConvAutoencoder":
        """Train one on a split by Adam, its learning rate falling to 0 along a cosine; a bar shows how far it is.

        Raises:
            InputError: a size below 1.

        Example:
            >>> from nextpixel.data.arrays import load_digits
            >>> from nextpixel.data.settings import DataSettings
            >>> settings = DataSettings(source="digits", levels=17)
            >>> images = Images(load_digits(settings)["all"], settings)
            >>> model = ConvAutoencoder.fit(images, dim=10, maps=8, steps=200, lr=0.01)
            >>> x = images.tensor()
            >>> with torch.no_grad():
            ...     bool(squared_error(model(x), x, 17).mean() < x.div(16).var(0).mean())
            True
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(images.shape, images.levels, dim, maps).to(device)
            optimizer = torch.optim.Adam(model.parameters(), lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
            for indices in track(_batches(len(images), batch_size, steps), steps, "training the plain autoencoder", progress):
                x = images.__getitems__(indices)[0].to(device)
                optimizer.zero_grad()
                squared_error(model(x), x, images.levels).mean().backward()
                optimizer.step()
                schedule.step()
        return model.eval()


def squared_error(brightness: Tensor, x: Tensor, levels: int) -> Tensor:
    """Mean squared error per image, of brightness from 0 to 1: (B, C, H, W) and integers (B, C, H, W) give (B,).

    Example:
        >>> squared_error(torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[[[0, 16]]]]), levels=17)
        tensor([0.1250])
    """
    return F.mse_loss(brightness, x / (levels - 1), reduction="none").flatten(1).mean(1)


def _batches(number: int, batch_size: int, steps: int) -> Iterator[list[int]]:
    """All images in a new order again and again, without short batches but where there are too few images."""
    order: list[int] = []
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(number).tolist()
        batch, order = order[:batch_size], order[batch_size:]
        yield batch
