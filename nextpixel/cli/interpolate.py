"""`nextpixel interpolate RUN --from A --to B`: rows of images that change from one condition to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import GUIDANCE, add_condition, output
from nextpixel.cli.runs import add_device, find_device
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from nextpixel.models import AutoregressiveModel

ENDS = ("from", "to")
# What an end may be, and the options that would say the same again.
LABEL, PICTURE, ARRAY = "a label", "a picture", "a .npy file"
SAME = {LABEL: ("label",), PICTURE: ("like",), ARRAY: ("label", "like")}


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument(
        "--from",
        required=True,
        help="where rows begin: a label; a picture file, for a model with an encoder or the run of one conditioned on "
        "embeddings; or a .npy file with a vector (or one per row)",
    )
    parser.add_argument("--to", required=True, help="where they end, likewise")
    add_condition(
        parser,
        "the class of all images, between two pictures, for a model that depends on both",
        "a picture file that all images are to be like, between two labels, for a model that depends on both",
    )
    parser.add_argument("--steps", type=int, default=8, help="images per row, both ends included")
    parser.add_argument("-n", type=int, default=4, help="rows, each with noise of its own")
    parser.add_argument("--path", type=Literal["linear", "spherical"], default="linear", help="of the encoded condition")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    add_device(parser)
    parser.add_argument(
        "-o", "--out", default="interpolation.png", help="a .png with a line per row, or the integers row by row: .npy"
    )


def run(args: Any) -> None:
    """Draw, write, and print the path."""
    from nextpixel.cli.runs import write_images
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    out = output(args.out, (".png", ".npy"))  # what lies between two labels has none that a .npz could hold
    device = find_device(args.device)
    model = load(args.run).to(device)
    ends = _ends(model, args)
    with rows_bar("interpolating", model.scan_rows(args.n * args.steps)) as progress:
        x = model.interpolate(
            *ends, args.steps, args.n, args.seed, args.path, args.temperature, progress=progress, guidance=args.guidance
        )
    write_images(x.flatten(0, 1), out, model, None, columns=args.steps)
    print(out)


def _ends(model: "AutoregressiveModel", args: Any) -> list[Any]:
    """The conditions that rows begin and end with: what is given for the ends moves one part of it, and the others stay.

    Raises:
        InputError: ends of two kinds, an end that cannot be read, or a part that is given twice or not at all.
    """
    from nextpixel.cli.runs import RunConditions

    kind, other = (_kind(option, args[option]) for option in ENDS)
    if kind != other:
        raise InputError(f"--from {args['from']} is {kind}, but --to {args.to} is {other}: expected two of a kind")
    for option in SAME[kind]:
        if args[option] is not None:
            raise InputError(f"--{option} {args[option]}: --from {args['from']} and --to {args.to} say that already")
    if kind == ARRAY:
        return [_array(option, args[option]) for option in ENDS]
    conditions = RunConditions(model, args.run)
    if kind == LABEL:
        return [conditions.cond(int(args[option]), args.like, of_label=f"--{option}") for option in ENDS]
    return [conditions.cond(args.label, args[option], of_picture=f"--{option}") for option in ENDS]


def _kind(option: str, text: str) -> str:
    if text.isdecimal():
        return LABEL
    if text.endswith(".npy"):
        return ARRAY
    if not Path(text).is_file():
        raise InputError(f"--{option} {text}: no such file; expected a label (0, 1, ...), a picture file or a .npy file")
    return PICTURE


def _array(option: str, path: str) -> "Tensor":
    """The numbers of a .npy file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    import numpy as np
    import torch

    from nextpixel.data.arrays import read_npy

    try:
        array = read_npy(path)
    except InputError as error:
        reason = str(error).rpartition(f"{path}: ")[2].rpartition(".npy array: ")[2]
        raise InputError(f"--{option} {path}: cannot be read as a .npy array: {reason}") from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InputError(f"--{option} {path} holds {array.dtype}: expected finite numbers")
    return torch.from_numpy(array)
