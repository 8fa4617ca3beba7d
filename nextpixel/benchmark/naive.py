"""A slice of the naive sampler, whose whole would take minutes."""

import torch

from nextpixel.models import AutoregressiveModel
from nextpixel.raster import Draw


@torch.inference_mode()
def naive_places(model: AutoregressiveModel, batch: int, places: int) -> None:
    """The naive sampler's work at some places, spread over the image: a forward pass and a draw for each channel.

    Where the likelihood couples the channels, one forward pass serves them all, as in `raster`.

    Args:
        model: any.
        batch: images drawn side by side.
        places: how many.
    """
    channels, height, width = model.shape
    x = torch.zeros(batch, channels, height, width, dtype=torch.long, device=model.device)
    choose = Draw(model.likelihood, torch.rand(x.shape, dtype=torch.float64).to(model.device))
    for k in range(places):
        i, j = divmod(k * height * width // places, width)
        for c in range(channels):
            if c < model.colours:
                params = model.network(model.encode(x))[:, :, i, j]
            x[:, c, i, j] = choose(params, x, i, j, c)
