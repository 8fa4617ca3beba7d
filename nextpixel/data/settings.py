"""Data settings; imports nothing heavy, because the command line is parsed from it."""

from dataclasses import dataclass
from typing import Literal, get_type_hints

from nextpixel.errors import InputError, fits, spelled

MAX_LEVELS = 65536
FORMS = (
    '"digits", "digits-identities", a Hugging Face id (owner/name), a folder of pictures, '
    "or a .npy, .npz, .parquet, .tar or .csv file"
)

RELATIVE = "a path in a run is relative to where you trained"


@dataclass
class DataSettings:
    """Where the images come from and how they become symbols 0..levels-1.

    Args:
        source: "digits" (8x8, in scikit-learn), "digits-identities" (each of them in its eight orientations), a Hugging Face data
            set id, a folder of images, a .npy or .npz file of integers, a .parquet or WebDataset .tar file or a glob of such
            files, or a folder of them, a folder that `datasets` saved, or a .csv file with a column of paths.
        levels: How many symbols the model sees: 0..levels-1, up to 8192, or 65536 with --model.likelihood logistic-mixture.
        source_levels: How many levels the stored values have; 65536 reads pictures of 16 bits. Left out: 256 for pictures, 17 for
            digits, what a .npz has under `levels`, and `levels` for other integer arrays, whose values are symbols already.
        binarize: How pixels become bits (levels must be 2). "fixed": drawn once per image with probability proportional to
            its value; "stochastic": drawn anew at every access in training; "threshold": 1 from half of the range upwards.
        size: Resize pictures to this height and width (Lanczos).
        crop: Cut this height and width out of the centre, before the resize.
        grayscale: Turn colour pictures into gray ones (ITU-R 601 luma).
        layout: What the dimensions of an array are, where its shape leaves a doubt: NHW, NCHW, NHWC, HWC, NTHWC, ... of N images,
            T frames or slices (each is an image), C channels, H rows and W columns.
        flip: Flip training images left to right with probability 1/2.
        mutate: Share of the symbols of training images that are drawn anew, uniformly, at every access: for a background model,
            which the score `ratio` compares with (Ren et al. 2019, arXiv:1906.02845).
        validation: Share of the training images kept for validation where the source brings no such split.
        test: Share of the images kept for testing where the source brings no such split.
        limit: Train on at most so many images, a random choice by the seed; validation and test stay whole.
        split_by: What decides to which split an image goes where the source brings none: a hash of the "image" (of its path
            within a folder, else of its pixels), so that others may come and go, or its "position" among all, which is the rule
            of runs whose config.yaml lacks this setting.
        classes: Names of the classes in the order of their numbers, as a run keeps them: labels of other data are matched by
            name.
        seed: Seed of the splits and of the fixed binarisation.
        embedding: The run of an embedding network, for --model.condition embedding: images then come with vectors, and splits
            share no identity.
        embedding_of: Whose vector comes with an image: that of the image "itself", or, from which a picture cannot be copied, of
            an "other" image of its identity.
        vector: Columns of a .csv table whose numbers come with each image, for --model.condition vector.
        masks: Kinds of masks that training draws from, for --model.condition known: nothing, half, hole, window, strokes, points,
            grid, lines, and of colour images symbols and channels (`nextpixel.data.masks`). Left out: all of them.
        strict: Refuse a folder with files that would be left out (also: --strict).

    Example:
        >>> DataSettings(source="digits", levels=17).validation
        0.1
    """

    source: str = "digits"
    levels: int = 256
    source_levels: int | None = None
    binarize: Literal["none", "fixed", "stochastic", "threshold"] = "none"
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    grayscale: bool = False
    layout: str | None = None
    flip: bool = False
    mutate: float = 0.0
    validation: float = 0.1
    test: float = 0.1
    limit: int | None = None
    split_by: Literal["image", "position"] = "image"
    classes: list[str] | None = None
    seed: int = 0
    embedding: str | None = None
    embedding_of: Literal["other", "itself"] = "other"
    vector: list[str] | None = None
    masks: list[str] | None = None
    strict: bool = False

    def check(self) -> None:
        """Refuse values that no source can satisfy.

        Raises:
            InputError: a value of another type, levels out of range, binarisation without 2 levels, a size or crop that is not
                positive, or a share outside of 0..1.

        Example:
            >>> DataSettings(levels=1).check()
            Traceback (most recent call last):
            nextpixel.errors.InputError: --data.levels is 1: expected 2 to 65536
        """
        for name, hint in get_type_hints(DataSettings).items():
            if not fits(getattr(self, name), hint):
                raise InputError(f"--data.{name} is {getattr(self, name)!r}: expected {spelled(hint)}")
        for name in ("levels", "source_levels"):
            value = getattr(self, name)
            if value is not None and not 2 <= value <= MAX_LEVELS:
                raise InputError(f"--data.{name} is {value}: expected 2 to {MAX_LEVELS}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--data.limit is {self.limit}: expected at least 1")
        if self.binarize != "none" and self.levels != 2:
            raise InputError(f"--data.binarize {self.binarize} makes 2 levels, but --data.levels is {self.levels}")
        for name in ("size", "crop"):
            value = getattr(self, name)
            if value is not None and min(value) < 1:
                raise InputError(f"--data.{name} is {tuple(value)}: expected a height and a width of at least 1")
        if self.layout is not None and not (
            set("HW") <= set(self.layout) <= set("NTCHW") and len(set(self.layout)) == len(self.layout)
        ):
            raise InputError(f"--data.layout is {self.layout[:40]!r}: expected H and W, and N, C or T, each once, as NHWC")
        for name in ("validation", "test", "mutate"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"--data.{name} is {value}: expected a share from 0 up to (not including) 1")
