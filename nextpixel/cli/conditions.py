"""The condition that the options of a verb give: a class, or a picture to be like."""

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.errors import InputError

if TYPE_CHECKING:
    from nextpixel.models import AutoregressiveModel


def add_condition(parser: ArgumentParser, label: str) -> None:
    """The options --label, with this help, and --like."""
    parser.add_argument("--label", type=int, help=label)
    parser.add_argument("--like", help="a picture file: draw what is like it, given its code; for a model with an encoder")


def given_condition(model: "AutoregressiveModel", run: str, label: int | None, like: str | None) -> Any:
    """The `cond` that was asked for, None if nothing was.

    Raises:
        InputError: the model does not depend on what was given, or the picture cannot be used.
    """
    from nextpixel.condition import Encoded, Labels
    from nextpixel.pictures import load_image

    if label is not None and not isinstance(model.condition, Labels):
        raise InputError(f"--label {label}: the model in {run} is not class-conditional")
    if like is None:
        return label
    if not isinstance(model.condition, Encoded):
        raise InputError(f"--like {like}: the model in {run} has no encoder, which would make a code of a picture")
    x = load_image(like, model.levels, model.shape[0])
    if x.shape != model.condition.shape:
        sizes = ["{} x {}".format(*shape[:0:-1]) for shape in (x.shape, model.condition.shape)]
        raise InputError(f"--like {like} is {sizes[0]} pixels wide and high, but the encoder is for {sizes[1]}")
    return x
