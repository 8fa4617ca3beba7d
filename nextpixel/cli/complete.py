"""`nextpixel complete RUN --image FILE...`: draw the unknown part of images."""

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import GUIDANCE, LIKE, add_condition, output
from nextpixel.cli.runs import add_device, find_device
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from nextpixel.models import AutoregressiveModel


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument("--image", nargs="+", required=True, help="picture files, all of one size, or one .npy or .npz file")
    parser.add_argument(
        "--keep", default="top:0.5", help="what is known: top:0.5, left:0.3 ..., or a mask picture (white is known)"
    )
    parser.add_argument("-n", type=int, default=5, help="completions per image")
    add_condition(parser, "the class of the images, for a class-conditional model (default: the labels of a .npz)", LIKE)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    add_device(parser)
    parser.add_argument("--out", default="completions.png", help="a .png with a row per image, or the integers: .npy or .npz")


def run(args: Any) -> None:
    """Complete, write, and print the path."""
    from nextpixel.cli.runs import RunConditions, write_images
    from nextpixel.models.storage import load
    from nextpixel.pictures.grid import save_completions
    from nextpixel.pictures.read import load_mask
    from nextpixel.progress import rows_bar

    out = output(args.out)
    device = find_device(args.device)
    model = load(args.run).to(device)
    x, labels = _read(args.image, model)
    conditions, needed = RunConditions(model, args.run), args.guidance != 0
    label = labels if args.label is None and needed and conditions.takes("label") else args.label
    cond = conditions.cond(label, args.like, needed=needed)
    height, width = x.shape[2:]
    known = load_mask(args.keep, height, width)
    with rows_bar("completing", model.scan_rows(len(x) * args.n, (height, width))) as progress:
        y = model.complete(x, known, args.n, cond, args.seed, args.temperature, progress=progress, guidance=args.guidance)
    if out.suffix == ".png":
        save_completions(x, known, y.unflatten(0, (len(x), args.n)), model.levels, out, codes=model.codes)
    else:
        write_images(y, out, model, cond)
    print(out)


def _read(files: list[str], model: "AutoregressiveModel") -> "tuple[Tensor, Tensor | None]":
    """The symbols of all pictures, or of the images of one array file and their labels.

    Raises:
        InputError: a file cannot be read, or does not hold what this model draws.
    """
    import torch

    from nextpixel.data.images import Images
    from nextpixel.data.settings import DataSettings
    from nextpixel.data.splits import load_source
    from nextpixel.pictures.read import load_image

    if len(files) == 1 and files[0].endswith((".npy", ".npz")):
        settings = DataSettings(source=files[0], levels=model.levels)
        parts = load_source(files[0], settings)
        if list(parts) != ["all"]:
            raise InputError(f"{files[0]} has the splits {', '.join(parts)}: expected one array of images")
        images = Images(parts["all"], settings)
        if model.codes:
            images.check_codes()
        return images.tensor(), images.labels
    if model.codes:
        raise InputError(f"--image {files[0]}: this model draws codes, so expected one .npy or .npz file of them")
    pictures = [load_image(path, model.levels, model.shape[0]) for path in files]
    for path, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = f"{tuple(picture.shape[1:])} and {tuple(pictures[0].shape[1:])}"
            raise InputError(f"{path} and {files[0]} differ in size: {sizes}; complete them one by one")
    return torch.stack(pictures), None
