"""`nextpixel decompress FILE`: the images of an archive, exactly as they were."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.errors import InputError


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("archive", help="from nextpixel compress")
    parser.add_argument("-o", "--out", help="a folder that is yet to be made (default: the archive's name without its ending)")
    parser.add_argument("--only", nargs="+", help="names of images: no others are decoded")
    parser.add_argument(
        "--limit",
        type=int,
        help="decode up to so many pixels times channels, however long it takes (default: what the file's length allows)",
    )
    parser.add_argument("--model", help="the run, the model folder or the hub id that it was made with, unless it is embedded")


def run(args: Any) -> None:
    """Decode to a folder, and print its path and how many images it holds."""
    from nextpixel.cli.compress import images
    from nextpixel.coding.archive import Archive
    from nextpixel.coding.pictures import write_image
    from nextpixel.files import folder_aside
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    out = Path(args.archive).with_suffix("") if args.out is None else Path(args.out)
    if args.out is None and out == Path(args.archive):
        raise InputError(f"{args.archive} has no ending that could be left off: name a folder with -o")
    model = None if args.model is None else load(args.model)
    with Archive.open(args.archive, model, limit=args.limit) as archive, folder_aside(out) as aside:
        written = 0
        with rows_bar("decompressing", archive.rows(args.only)) as progress:
            for name, x in archive.images(args.only, progress):
                write_image(x, aside / name, archive.model)
                written += 1
    print(f"{out}: {images(written)}")
