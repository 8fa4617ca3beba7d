"""`nextpixel complete RUN --image FILE...`: draw the unknown part of images."""

from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.cli.conditions import add_condition, given_condition
from nextpixel.cli.settings import GUIDANCE
from nextpixel.errors import InputError


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument("--image", nargs="+", required=True, help="picture files, all of one size")
    parser.add_argument(
        "--keep", default="top:0.5", help="what is known: top:0.5, left:0.3 ..., or a mask picture (white is known)"
    )
    parser.add_argument("-n", type=int, default=5, help="completions per image")
    add_condition(parser, "the class of the images, for a class-conditional model")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    parser.add_argument("--out", default="completions.png", help="the picture: a row per image")


def run(args: Any) -> None:
    """Complete, write, and print the path."""
    import torch

    from nextpixel.models.storage import load
    from nextpixel.pictures import load_image, load_mask, save_completions
    from nextpixel.progress import rows_bar

    model = load(args.run)
    cond = given_condition(model, args.run, args.label, args.like)
    images = [load_image(path, model.levels, model.shape[0]) for path in args.image]
    for path, image in zip(args.image, images, strict=True):
        if image.shape != images[0].shape:
            sizes = f"{tuple(image.shape[1:])} and {tuple(images[0].shape[1:])}"
            raise InputError(f"{path} and {args.image[0]} differ in size: {sizes}; complete them one by one")
    x = torch.stack(images)
    height, width = x.shape[2:]
    known = load_mask(args.keep, height, width)
    with rows_bar("completing", model.scan_rows(len(x) * args.n, (height, width))) as progress:
        y = model.complete(x, known, args.n, cond, args.seed, args.temperature, progress=progress, guidance=args.guidance)
    save_completions(x, known, y.unflatten(0, (len(x), args.n)), model.levels, args.out)
    print(args.out)
