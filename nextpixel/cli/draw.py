"""Drawing: `nextpixel sample RUN` and `nextpixel interpolate RUN --from A --to B`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import GUIDANCE, LIKE, add_condition, add_device, add_force, find_device, output, pair
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from nextpixel.models import AutoregressiveModel


MOST = 10**6  # images of one call: their noise and symbols are in memory together
METHOD = (
    "cached: a scan, step by step; compiled: the same as a program on all cores (default on a processor, where it can "
    "be); naive: a forward pass for every place, the slow reference; fixed-point: forward passes over all places until nothing "
    "changes, and how many it took is printed"
)


ENDS = ("from", "to")
# What an end may be, and the options that would repeat it.
LABEL, PICTURE, ARRAY = "a label", "a picture", "a .npy file"
SAME = {LABEL: ("label",), PICTURE: ("like",), ARRAY: ("label", "like")}


def add_sample(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, the name of a bundled model, or an id on the Hugging Face hub")
    parser.add_argument("-n", type=int, default=64, help="how many images")
    add_condition(parser, "the class of the images, for a class-conditional model (default: all in turn)", LIKE)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    parser.add_argument("--size", help="HxW, for another size than the training images'")
    parser.add_argument("--method", type=Literal["cached", "compiled", "naive", "fixed-point"], help=METHOD)
    add_device(parser)
    parser.add_argument("--out", default="samples.png", help="a .png grid, or the integers: .npy, or .npz with the labels")
    add_force(parser)


def run_sample(args: Any) -> None:
    """Draw, write, and print the path."""
    from nextpixel.cli.runs import RunConditions, notice_guidance, write_images
    from nextpixel.conditions import default_cond
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    if args.n > MOST:
        raise InputError(f"-n {args.n}: expected at most {MOST} images at once; draw more with other seeds")
    out = output(args.out, force=args.force, inputs=[args.like])
    size = None if args.size is None else pair(args.size)
    device = find_device(args.device)
    args.run = located(args.run)
    model = load(args.run).to(device)
    cond = RunConditions(model, args.run).cond(args.label, args.like, needed=args.guidance != 0)
    notice_guidance(args.guidance, model, args.run)
    if cond is None and args.guidance != 0:
        cond = default_cond(model, args.n)
    sweeps = 0
    with rows_bar("sampling", model.scan_rows(args.n, size)) as progress:

        def count(done: int, total: int) -> None:
            nonlocal sweeps
            sweeps += 1
            progress(done, total)

        x = model.sample(args.n, cond, args.seed, args.temperature, args.method, size, count, args.guidance)
    write_images(x, out, model, cond)
    if args.method == "fixed-point":
        print(f"{sweeps} sweeps")
    print(out)


def add_interpolate(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, the name of a bundled model, or an id on the Hugging Face hub")
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
    add_force(parser)


def run_interpolate(args: Any) -> None:
    """Draw, write, and print the path."""
    from nextpixel.cli.runs import notice_guidance, write_images
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    # What lies between two labels has none that a .npz could hold.
    out = output(args.out, (".png", ".npy"), args.force, inputs=[args["from"], args.to, args.like])
    device = find_device(args.device)
    args.run = located(args.run)
    model = load(args.run).to(device)
    ends = _ends(model, args)
    notice_guidance(args.guidance, model, args.run)
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

    kind, other = (_kind(option, args[option], model.class_names) for option in ENDS)
    if kind != other:
        raise InputError(f"--from {args['from']} is {kind}, but --to {args.to} is {other}: expected two of a kind")
    for option in SAME[kind]:
        if args[option] is not None:
            raise InputError(f"--{option} {args[option]}: --from {args['from']} and --to {args.to} already give that")
    if kind == ARRAY:
        return [_array(option, args[option]) for option in ENDS]
    conditions = RunConditions(model, args.run)
    if kind == LABEL:
        return [conditions.cond(args[option], args.like, of_label=f"--{option}") for option in ENDS]
    return [conditions.cond(args.label, args[option], of_picture=f"--{option}") for option in ENDS]


def _kind(option: str, text: str, names: list[str] | None) -> str:
    if text.isdecimal() or text in (names or ()):
        return LABEL
    if text.endswith(".npy"):
        return ARRAY
    if not Path(text).is_file():
        if names is not None and not Path(text).suffix:
            return LABEL  # a name that is mistyped: the nearest are named
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
