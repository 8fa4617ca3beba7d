"""The images of one split as the model sees them: symbols 0..levels-1.

scikit-learn's digits as identities: every written digit is one, in all its orientations.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nextpixel.data.arrays import load_digits
from nextpixel.data.raw import RawImages, draw_bits, fixed_uniforms, quantise, threshold
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError

ORIENTATIONS = 8


class Images(Dataset):
    """The symbols of stored images, computed when they are asked for.

    A batch is one call: `DataLoader(images, batch_size=64, collate_fn=lambda batch: batch)` uses `__getitems__`.

    Args:
        raw: The stored images, shared and never copied.
        settings: How they become symbols.
        training: Whether `stochastic` binarisation is drawn anew at every access and images may be flipped, both from torch's
            global generator. Otherwise every access gives the same.
        split: Name of the split; it is part of the seed of a fixed binarisation.
        indices: Which of the stored images belong to the split, int64 (N,); all of them where left out.

    Example:
        >>> from nextpixel.data.arrays import load_digits
        >>> settings = DataSettings(source="digits", levels=2, binarize="fixed")
        >>> images = Images(load_digits(settings)["all"], settings)
        >>> x, labels = images.__getitems__([0, 5, 6])
        >>> x.shape, x.dtype, labels
        (torch.Size([3, 1, 8, 8]), torch.int64, tensor([0, 5, 6]))
        >>> images.describe_binarisation()
        "fixed binarisation drawn here with seed 0 (not Larochelle's): 1 with probability x / 16"
    """

    def __init__(
        self,
        raw: RawImages,
        settings: DataSettings,
        training: bool = False,
        split: str = "all",
        indices: np.ndarray | None = None,
    ) -> None:
        settings.check()
        self.raw = raw
        self.settings = settings
        self.training = training
        self.split = split
        self.indices = indices
        self.shape: tuple[int, int, int] = tuple(raw.images.shape[1:])
        self.levels = settings.levels
        self.class_names = raw.class_names
        self.labels: Tensor | None = None
        self.vectors: Tensor | None = None
        if raw.vectors is not None:
            self.vectors = torch.from_numpy(raw.vectors if indices is None else raw.vectors[indices])
        if raw.labels is not None:
            self.labels = torch.from_numpy(raw.labels if indices is None else raw.labels[indices])

    @property
    def names(self) -> list[str] | None:
        """Path of each image's file within the source; None where images have none."""
        if self.raw.names is None or self.indices is None:
            return self.raw.names
        return [self.raw.names[k] for k in self.indices]

    @property
    def classes(self) -> int | None:
        """Number of classes in the whole source, of which a small split may lack some; None without labels."""
        if self.raw.labels is None:
            return None
        return int(self.raw.labels.max()) + 1 if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        return len(self.raw) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, int64 (C, H, W), and its label, int64 (), which is -1 where there are none."""
        x, labels = self.__getitems__([range(len(self))[index]])
        return x[0], torch.tensor(-1) if labels is None else labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return a batch, int64 (B, C, H, W), and its labels, int64 (B,) or None; or its vectors, where images have such."""
        positions = np.asarray(indices, dtype=np.int64)
        given = self.labels if self.vectors is None else self.vectors
        return self._symbols(positions), None if given is None else given[torch.from_numpy(positions)]

    def tensor(self, indices: Sequence[int] | slice | None = None) -> Tensor:
        """Return the chosen images (all where left out) as one tensor, int64 (B, C, H, W), as `__getitems__` does."""
        positions = np.arange(len(self))
        return self._symbols(positions if indices is None else positions[indices])

    def spread(self, most: int) -> list[int]:
        """Positions of at most so many images, evenly spaced: the split may be sorted by class."""
        number = min(most, len(self))
        return [k * len(self) // number for k in range(number)]

    def describe_binarisation(self) -> str:
        """Say in one sentence how stored values x become symbols: likelihoods are comparable only where this is the same."""
        source, most, binarize = self.raw.levels, self.raw.levels - 1, self.settings.binarize
        if source == self.levels:
            return f"values taken as given ({source} levels)"
        if binarize == "threshold":
            return f"thresholded at half of the range: 1 where x >= {source / 2:g} of {most}"
        if binarize == "fixed":
            seed = self.settings.seed
            return f"fixed binarisation drawn here with seed {seed} (not Larochelle's): 1 with probability x / {most}"
        if binarize == "stochastic":
            when = "redrawn at every access" if self.training else f"drawn once with seed {self.settings.seed} for evaluation"
            return f"stochastic (dynamic) binarisation, {when}: 1 with probability x / {most}"
        return f"{self.levels} levels: floor(x * {self.levels} / {source})"

    def check_codes(self) -> None:
        """Refuse to do to codes without order what is done to brightness: quantise them, or mirror their grids.

        Raises:
            InputError: the settings require it.
        """
        if self.raw.levels != self.levels and self.settings.binarize == "none":
            raise InputError(
                f"{self.settings.source} has values of {self.raw.levels} levels, but --data.levels is {self.levels}: "
                f"codes (inputs: embedding) have no order and cannot be quantised"
            )
        if self.settings.flip:
            raise InputError("--data.flip mirrors pictures, but codes (inputs: embedding) of a mirrored picture are others")

    def _symbols(self, positions: np.ndarray) -> Tensor:
        """Return the symbols of the images at these positions of the split, int64 (B, C, H, W)."""
        stored = self.raw.images[positions if self.indices is None else self.indices[positions]]
        x = self._levels(torch.from_numpy(np.asarray(stored, dtype=np.int64)), positions)
        if self.training and self.settings.flip:
            flipped = torch.rand(len(x)) < 0.5
            x = torch.where(flipped[:, None, None, None], x.flip(-1), x)
        if self.training and self.settings.mutate:
            x = torch.where(torch.rand(x.shape) < self.settings.mutate, torch.randint(self.levels, x.shape), x)
        return x

    def _levels(self, x: Tensor, positions: np.ndarray) -> Tensor:
        """Bring stored values, int64 (B, C, H, W), to the levels of the model."""
        source, binarize = self.raw.levels, self.settings.binarize
        if source == self.levels:
            return x
        if binarize == "none":
            return quantise(x, source, self.levels)
        if binarize == "threshold":
            return threshold(x, source)
        if binarize == "stochastic" and self.training:
            return draw_bits(x, source, torch.rand(x.shape, dtype=torch.float64))
        uniform = fixed_uniforms(self.settings.seed, self.split, positions, places=x[0].numel() if len(x) else 0)
        return draw_bits(x, source, uniform.view(x.shape))


def load_digit_identities(settings: DataSettings) -> dict[str, RawImages]:
    """Return eight images of each of the 1797 written digits: turned by 0 to 3 quarter turns, and each of these mirrored.

    The label is the written digit, 0..1796, not its class: two different sevens are two identities. It is an embedded stand-in
    for photographs of people, whose pose changes from one to the next.

    Example:
        >>> raw = load_digit_identities(DataSettings())["all"]
        >>> raw.images.shape, raw.labels[[0, 7, 8]]
        ((14376, 1, 8, 8), array([0, 0, 1]))
    """
    digits = load_digits(settings)["all"]
    turned = [np.rot90(digits.images, k, axes=(2, 3)) for k in range(4)]
    views = np.stack([view for image in turned for view in (image, image[..., ::-1])], axis=1)
    labels = np.repeat(np.arange(len(digits)), ORIENTATIONS)
    return {"all": RawImages(views.reshape(-1, *views.shape[2:]), labels, None, digits.levels)}
