"""Where a model begins: the last bias of its network at the distribution of all symbols of the training images.

A head whose params are zero gives every symbol the same probability, log2(levels) bits, and its first steps only learn which
symbols are common. A likelihood declares the params of that distribution (`Likelihood.start`), and the head begins there.
"""

import torch
from torch import Tensor, nn

from nextpixel.models.base import AutoregressiveModel

MOST_PLACES = 2**18  # that a head begins at: more change nothing that could be seen
QUIET = 0.03  # what the weights in front of that bias are multiplied with


def start_head(model: AutoregressiveModel, x: Tensor) -> bool:
    """Begin training at the marginal distribution of the symbols of x, int64 (N, C, H, W).

    The bias of the last layer becomes `likelihood.start(x)`, so that the first loss is near the entropy of that distribution.
    Where the weights in front of it are normalised, or the likelihood is `precise`, they are multiplied with `QUIET` for that.
    A model of stages does so in each of them.

    A model of codes begins as its layers do: codes are about equally frequent, and such a start made its first steps worse.

    Returns:
        Whether it did: a likelihood may declare no start, and an architecture of one's own may have another head.

    Example:
        >>> from nextpixel.models import PixelCNN
        >>> model = PixelCNN((1, 8, 8), levels=4, features=4, blocks=1)
        >>> x = torch.tensor([0, 0, 0, 1]).repeat(16).view(1, 1, 8, 8)
        >>> start_head(model, x), [round(p, 2) for p in model.head.last.bias.softmax(0).tolist()]
        (True, [0.72, 0.25, 0.01, 0.01])
    """
    if model.codes:
        return False
    places = x.transpose(0, 1).flatten(1).t()
    step = -(-len(places) // MOST_PLACES)
    params = model.likelihood.start(places[::step])
    if params is None:
        return False
    heads = [getattr(network, "head", None) for network in getattr(model, "networks", [model])]
    heads = [head for head in heads if isinstance(getattr(head, "last", None), nn.Module)]
    with torch.no_grad():
        for head in heads:
            head.last.bias.copy_(params)
            if hasattr(head.last, "gain"):  # a normalised layer (arXiv:1602.07868): its outputs begin with deviation 1
                head.last.gain.mul_(QUIET)
            elif model.likelihood.precise:  # narrow components, which a small output misses
                head.last.weight.mul_(QUIET)
    return bool(heads)
