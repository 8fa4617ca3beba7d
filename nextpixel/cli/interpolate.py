"""`nextpixel interpolate RUN --from A --to B`: rows of images that change from one condition to another."""

from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.cli.settings import output
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument("--from", required=True, help="where rows begin: a label, or a .npy file with a vector (or one per row)")
    parser.add_argument("--to", required=True, help="where they end, likewise")
    parser.add_argument("--steps", type=int, default=8, help="images per row, both ends included")
    parser.add_argument("-n", type=int, default=4, help="rows, each with noise of its own")
    parser.add_argument("--path", type=Literal["linear", "spherical"], default="linear", help="of the encoded condition")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument(
        "-o", "--out", default="interpolation.png", help="a .png with a line per row, or the integers row by row: .npy"
    )


def run(args: Any) -> None:
    """Draw, write, and print the path."""
    from nextpixel.cli.runs import write_images
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    out = output(args.out, (".png", ".npy"))  # what lies between two labels has none that a .npz could hold
    model = load(args.run)
    ends = [_condition(option, args[option]) for option in ("from", "to")]
    with rows_bar("interpolating", model.scan_rows(args.n * args.steps)) as progress:
        x = model.interpolate(*ends, args.steps, args.n, args.seed, args.path, args.temperature, progress=progress)
    write_images(x.flatten(0, 1), out, model, None, columns=args.steps)
    print(out)


def _condition(option: str, text: str) -> "int | Tensor":
    """A label, or the numbers of a .npy file.

    Raises:
        InputError: neither.
    """
    import numpy as np
    import torch

    if not text.endswith(".npy"):
        if not text.isdecimal():
            raise InputError(f"--{option} {text}: expected a label (0, 1, ...) or a .npy file")
        return int(text)
    try:
        array = np.load(text)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"--{option} {text}: cannot be read as a .npy array: {getattr(error, 'strerror', None) or error}"
        ) from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InputError(f"--{option} {text} holds {array.dtype}: expected finite numbers")
    return torch.from_numpy(array)
