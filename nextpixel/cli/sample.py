"""`nextpixel sample RUN`: draw images, as a picture to look at or as an array to go on with."""

from typing import Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import GUIDANCE, LIKE, add_condition, output, pair
from nextpixel.cli.runs import add_device, find_device

METHOD = (
    "cached: a scan, step by step; compiled: the same as a program on all cores (default on a processor, where it can "
    "be); naive: a forward pass for every place, the slow reference; fixed-point: forward passes over all places until nothing "
    "changes, and how many it took is printed"
)


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument("-n", type=int, default=64, help="how many images")
    add_condition(parser, "the class of the images, for a class-conditional model (default: all in turn)", LIKE)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    parser.add_argument("--size", help="HxW, for another size than the training images'")
    parser.add_argument("--method", type=Literal["cached", "compiled", "naive", "fixed-point"], help=METHOD)
    add_device(parser)
    parser.add_argument("--out", default="samples.png", help="a .png grid, or the integers: .npy, or .npz with the labels")


def run(args: Any) -> None:
    """Draw, write, and print the path."""
    from nextpixel.cli.runs import RunConditions, write_images
    from nextpixel.conditions import default_cond
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    out = output(args.out)
    size = None if args.size is None else pair(args.size)
    device = find_device(args.device)
    model = load(args.run).to(device)
    cond = RunConditions(model, args.run).cond(args.label, args.like, needed=args.guidance != 0)
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
