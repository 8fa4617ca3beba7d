"""What is known of an image, anywhere in it, as a condition: the rest is drawn given all of it, not only what comes earlier.

An unmasked network reads the known symbols and where they are, once; its maps h enter every layer as those of a `SpatialMap` do.
h does not depend on unknown symbols, so that for every mask

    log p(x_unknown | x_known) = sum over unknown places i, in the model's order, of log p(x_i | x_earlier, h(x_known, mask))

is normalised, and costs one forward pass. The distributions of different masks are learned, not forced to agree. The idea of an
autoregressive model that is conditioned on maps is that of arXiv:1606.05328, section 2.3; this network and its sizes are ours.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.conditions.base import Condition, as_tensor, positive
from nextpixel.errors import InputError
from nextpixel.layers.pointwise import EmbeddingInput, IntensityInput

UNKNOWN = -1  # in place of a symbol
DILATIONS = (1, 2, 4, 8)  # of the blocks, in turn
EMBEDDING = 8  # numbers of a code's vector


def given_symbols(x: Tensor, known: Tensor) -> Tensor:
    """The `cond` of `Known`: x where it is known, and -1 elsewhere.

    Args:
        x: integers (B, C, H, W).
        known: bool, broadcastable to x.

    Example:
        >>> given_symbols(torch.tensor([[[[3, 1]]]]), torch.tensor([True, False])).tolist()
        [[[[3, -1]]]]
    """
    return torch.where(known, x.long(), UNKNOWN)


class Known(Condition):
    r"""What is known of an image, at any places: h is what a residual network of dilated convolutions makes of it.

    .. math:: h = A \, e_n,
        \qquad e_k = e_{k-1} + \text{1x1} \, \text{ReLU} \, (\text{3x3, dilation } d_k) \, \text{ReLU} \, e_{k-1}

    with dilations 1, 2, 4, 8, 1, ..., and e_0 a 3x3 convolution of the known symbols, of the mask of each channel, and of a map
    of ones, which shows the image's edge. A is 0 before training: the model begins as if nothing were known. Where nothing is
    known of an image at all, h is exactly 0: then the model is its own unconditional distribution. It is fully convolutional,
    for any H x W, and sees 1 + 1 + 2 + 4 + 8 = 16 places far in each direction with four blocks.

    A model with this condition completes images from any mask: `complete(x, known)` and `log_prob(x, known=known)` fill it in
    where no `cond` gives it. It stands alone, or beside labels, vectors or maps in a `Combination`, whose `cond` leaves it out.

    Args:
        maps: of the network, and of h.
        blocks: residual blocks.

    Shapes:
        integers (C, H, W) or (B, C, H, W), -1 where they are unknown, or None -> (B, maps, H, W).

    Raises:
        InputError: a size below 1.

    Example:
        >>> import nextpixel
        >>> model = nextpixel.GatedPixelCNN((1, 8, 8), levels=2, features=8, blocks=2, condition=Known(maps=8, blocks=2))
        >>> x = torch.randint(2, (5, 1, 8, 8))
        >>> known = torch.zeros(8, 8, dtype=torch.bool)
        >>> known[4:] = True                         # the lower half, which comes later
        >>> model.complete(x, known).shape, model.log_prob(x, known=known).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5]))
    """

    name = "known"
    entries = ("maps", "blocks")
    batched = (4,)
    places = True
    asks = False

    def __init__(self, maps: int = 32, blocks: int = 4) -> None:
        super().__init__(positive(self.name, "maps", maps))
        self.blocks = positive(self.name, "blocks", blocks)
        self.shape: tuple[int, int, int] | None = None  # until `prepare`

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "maps": self.features, "blocks": self.blocks}

    @classmethod
    def from_config(cls, maps: int = 32, blocks: int = 4) -> "Known":
        return cls(maps, blocks)

    def prepare(self, shape: tuple[int, int, int], levels: int, codes: bool) -> None:
        if self.shape is not None and (shape, levels, codes) != (self.shape, self.levels, self.codes):
            mine = f"belongs to a model of {self.shape} images with {self.levels} levels"
            raise InputError(f"this condition {mine}: it cannot also serve {shape} images with {levels}")
        if self.shape is None:
            self.shape, self.levels, self.codes = shape, levels, codes
            channels, maps = shape[0], self.features
            self.encode = EmbeddingInput(channels, levels, EMBEDDING) if codes else IntensityInput(levels)
            self.first = nn.Conv2d(channels * (EMBEDDING if codes else 1) + channels + 1, maps, 3, padding=1)
            self.network = nn.ModuleList(_Block(maps, DILATIONS[k % len(DILATIONS)]) for k in range(self.blocks))
            self.out = nn.Conv2d(maps, maps, 1, bias=False)
            nn.init.zeros_(self.out.weight)

    def of_images(self, x: Tensor, labels: Tensor | None) -> None:
        """Nothing is known: the figures are those of the unconditional distribution."""

    def default(self, number: int) -> None:
        """Nothing is known."""

    def join(self, cond: Any, given: Tensor) -> Any:
        return given if cond is None else cond

    def forward(self, cond: Any, batch: int, height: int, width: int) -> Tensor:
        if self.shape is None:
            raise InputError("this condition belongs to no model yet, which would define the images' channels and levels")
        if cond is None:
            return self.one.new_zeros(batch, self.features, 1, 1)
        given = as_tensor(cond).to(self.one.device)
        expected = (self.shape[0], height, width)
        if given.shape not in (expected, (batch, *expected)) or given.is_floating_point() or given.is_complex():
            raise InputError(
                f"cond must be integers {expected} or {(batch, *expected)}, {UNKNOWN} where unknown, "
                f"not {given.dtype} {tuple(given.shape)}"
            )
        given = (given if given.dim() == 4 else given[None]).long()
        compiling = torch.compiler.is_compiling()  # a look at the symbols would cut the compiled step in two
        if not compiling and given.numel() and not (int(given.min()) >= UNKNOWN and int(given.max()) < self.levels):
            low, high = int(given.min()), int(given.max())
            raise InputError(f"known symbols must be 0..{self.levels - 1}, or {UNKNOWN} where unknown, not {low}..{high}")
        known = given > UNKNOWN
        of_symbols = self.encode(given.clamp(min=0))
        seen = known.repeat_interleave(of_symbols.shape[1] // known.shape[1], 1)
        e = self.first(torch.cat([of_symbols * seen, known.to(self.one), torch.ones_like(known[:, :1]).to(self.one)], 1))
        for block in self.network:
            e = block(e)
        h = self.out(e) * known.flatten(1).any(1)[:, None, None, None]
        return h.expand(batch, -1, -1, -1)


class _Block(nn.Module):
    """A residual block whose 3x3 kernel has holes."""

    def __init__(self, maps: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(maps, maps, 1)

    def forward(self, e: Tensor) -> Tensor:
        return e + self.mix(torch.relu(self.wide(torch.relu(e))))
