"""The PixelCNN autoencoder (arXiv:1606.05328, section 2.4): the condition of an image is a short code of an image.

    x -> strided 3x3 convolutions, ReLU -> linear -> code, 10 or 100 numbers -> V code in every layer of any decoder

Encoder and decoder are one model, trained end to end by the decoder's likelihood -log p(x | code(x)), which is not a likelihood
of x: it leaves out what the code itself costs. A reconstruction is a *sample* given the code, and no two need be alike: what the
code leaves open, the decoder draws. The sizes of the encoder, which are not published, are ours.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.conditions.base import Condition, as_tensor, positive
from nextpixel.errors import InputError
from nextpixel.layers.pointwise import IntensityInput

SMALLEST = 4  # a side of the map that the linear layer sees; an axis is halved while it is longer


class Encoded(Condition):
    r"""A code of an image, by a convolutional encoder that is trained with the model (arXiv:1606.05328, section 2.4).

    .. math:: h = A \, e(x) + b, \qquad e = \text{ReLU after each of some } 3 \times 3 \text{ convolutions}

    The first convolution has stride 1; each further one halves the sides that are longer than 4: 28x28 goes to 14x14, 7x7, 4x4.
    Symbols go in as intensities, whatever the decoder's inputs are. The encoder is for images of the model's own shape, which
    the model passes to `prepare`; images of any size can be drawn from a code.

    Args:
        dim: numbers of a code.
        maps: of each convolution.

    Shapes:
        images, integers (C, H, W) or B of these, or codes (dim,) or (B, dim) -> (B, dim, 1, 1).

    Raises:
        InputError: a size below 1.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=2, features=8, blocks=2, condition=Encoded(10))
        >>> x = torch.randint(2, (5, 1, 8, 8))
        >>> model.log_prob(x, cond=x).shape
        torch.Size([5])
        >>> codes = model.condition.encode(x)
        >>> codes.shape, model.sample(5, cond=codes).shape
        (torch.Size([5, 10]), torch.Size([5, 1, 8, 8]))
    """

    name = "encoded"
    entries = ("features", "maps")
    source = "picture"
    batched = (2, 4)
    sees_image = True

    def __init__(self, dim: int, maps: int = 64) -> None:
        super().__init__(dim)
        self.maps = positive(self.name, "maps", maps)
        self.shape: tuple[int, int, int] | None = None  # until `prepare`

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "maps": self.maps}

    def prepare(self, shape: tuple[int, int, int], levels: int, codes: bool) -> None:
        if self.shape is not None and (shape, levels) != (self.shape, self.levels):
            mine = f"belongs to a model of {self.shape} images with {self.levels} levels"
            raise InputError(f"this encoder {mine}: it cannot also serve {shape} images with {levels}")
        if self.shape is None:
            self.shape, self.levels = shape, levels
            self.intensity = IntensityInput(levels)
            self.strides, self.smallest = halvings(shape[1:])
            convolutions = [nn.Conv2d(shape[0], self.maps, 3, padding=1), nn.ReLU()]
            for stride in self.strides:
                convolutions += [nn.Conv2d(self.maps, self.maps, 3, stride, padding=1), nn.ReLU()]
            height, width = self.smallest
            self.network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(self.maps * height * width, self.given))

    def of_images(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return x

    def encode(self, x: Tensor) -> Tensor:
        """The codes of images: integers (B, C, H, W) of the model's shape and levels to (B, dim).

        Raises:
            InputError: images of another shape, or no such integers, or a condition that has not been given to a model.
        """
        self._require_model()
        if x.dim() != 4 or x.shape[1:] != self.shape:
            raise InputError(f"the encoder is for images (B, {', '.join(map(str, self.shape))}), not {tuple(x.shape)}")
        if x.is_floating_point() or x.is_complex():
            raise InputError(f"the encoder is for images of integers 0..{self.levels - 1}, not {x.dtype}")
        x = x.to(self.one.device, torch.long)
        compiling = torch.compiler.is_compiling()  # a look at the symbols would cut the compiled step in two
        if not compiling and x.numel() and not (int(x.min()) >= 0 and int(x.max()) < self.levels):
            low, high = int(x.min()), int(x.max())
            raise InputError(f"the encoder is for images with symbols 0..{self.levels - 1}, but these have {low}..{high}")
        return self.network(self.intensity(x)).to(self.one)  # which autocast may have left in bf16

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        self._require_model()
        cond = as_tensor(cond)
        images = cond.dim() in (3, 4)
        wanted = self.shape if images else (self.given,)
        if cond.shape not in (wanted, (batch, *wanted)):
            codes = f"codes ({self.given},) or ({batch}, {self.given})"
            raise InputError(f"cond must be images {self.shape} or {(batch, *self.shape)}, or {codes}, not {tuple(cond.shape)}")
        # One image for all is encoded once.
        code = self.encode(cond if cond.dim() == 4 else cond[None]) if images else cond.to(self.one)
        return code.expand(batch, -1)[:, :, None, None]

    def _require_model(self) -> None:
        if self.shape is None:
            raise InputError("this encoder belongs to no model yet, which would define the images' shape and levels")


def halvings(size: tuple[int, int]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The strides that bring a size down to about 4x4, each side halved while it is longer, and what they bring it to.

    Example:
        >>> halvings((28, 8))
        ([(2, 2), (2, 1), (2, 1)], (4, 4))
    """
    strides, (height, width) = [], size
    while max(height, width) > SMALLEST:
        strides.append((1 + (height > SMALLEST), 1 + (width > SMALLEST)))
        height, width = -(-height // strides[-1][0]), -(-width // strides[-1][1])
    return strides, (height, width)
