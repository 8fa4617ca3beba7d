"""`nextpixel compress RUN IMAGES... -o FILE`: images to a lossless archive."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import pair
from nextpixel.errors import InputError

if TYPE_CHECKING:
    from nextpixel.models import AutoregressiveModel


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, or a model's id on the Hugging Face hub")
    parser.add_argument("images", nargs="+", help="pictures of 8 bits, grey or RGB, or .npy files of integers")
    parser.add_argument("-o", "--out", required=True, help="the archive")
    parser.add_argument("--label", type=int, nargs="+", help="class of all images, or of each, for a class-conditional model")
    parser.add_argument("--tile", help="HxW: cut larger images into tiles, which is faster and a little larger")
    parser.add_argument(
        "--mode",
        type=Literal["float64", "fast"],
        default="float64",
        help="fast: float32; only this machine, with these versions, will decode it",
    )
    parser.add_argument("--lanes", type=int, default=64, help="images coded side by side")
    parser.add_argument("--embed", action="store_true", help="put the model into the archive")
    parser.add_argument("--no-verify", action="store_true", help="do not decode everything again before it counts as done")


def run(args: Any) -> None:
    """Compress, write, and print the path and the sizes."""
    from nextpixel.coding.archive import Archive
    from nextpixel.coding.format.journal import Journal
    from nextpixel.coding.writer import Settings, Writer
    from nextpixel.files import require_file, write_aside
    from nextpixel.models.storage import load
    from nextpixel.progress import rows_bar

    out, tile = Path(args.out), None if args.tile is None else pair(args.tile)
    require_file(out)
    model = load(args.run)
    names, found = _read(args.images, model)
    settings = Settings(args.mode, args.lanes, tile, args.embed, not args.no_verify)
    writer = Writer(model, found, names, _cond(args.label, len(found), model, args.run), settings)
    journal = Journal(out, writer.work())
    try:  # whatever ends this early, the journal stays
        with rows_bar("compressing", writer.rows(finished=len(journal.groups))) as progress:
            data = writer.write(progress, journal)
    except KeyboardInterrupt:
        kept = f"{len(journal.groups)} of {len(writer.groups)} groups of images are finished"
        raise KeyboardInterrupt(f"interrupted: {kept}, and the same command goes on from there") from None
    finally:
        journal.close()
    with write_aside(out) as aside:
        aside.write_bytes(data)
    journal.remove()
    print(out)
    print(summary(Archive(data), len(data)))


def summary(archive: Any, size: int) -> str:
    """The sizes of an archive of so many bytes, in one line."""
    symbols = sum(archive.header.channels * entry.size[0] * entry.size[1] for entry in archive.entries)
    streams = sum(entry.stored for entry in archive.entries)
    thresholds = sum(tile.thresholds for entry in archive.entries for tile in entry.tiles)
    rest = size - streams - archive.embedded
    return (
        f"{images(len(archive))} in {streams} bytes, {8 * streams / symbols:.4f} bits/dim ({thresholds} bytes of it are "
        f"thresholds); model {archive.embedded} bytes, header and index {rest} bytes; file {size} bytes"
    )


def images(number: int) -> str:
    """How many, in words.

    Example:
        >>> images(1), images(2)
        ('1 image', '2 images')
    """
    return f"{number} image" if number == 1 else f"{number} images"


def _read(files: list[str], model: "AutoregressiveModel") -> tuple[list[str], list[Any]]:
    from nextpixel.coding.pictures import read_images
    from nextpixel.progress import track

    found = [image for path in track(files, len(files), "reading") for image in read_images(path, model)]
    return [name for name, _ in found], [x for _, x in found]


def _cond(labels: list[int] | None, number: int, model: "AutoregressiveModel", run: str) -> Any:
    """The classes as the model takes them.

    Raises:
        InputError: as many as there are images, or one, are not given; or the model has no classes.
    """
    if labels is None:
        return None
    if model.condition is None or model.condition.source != "label":
        raise InputError(f"--label {labels[0]}: the model in {run} is not class-conditional")
    if len(labels) not in (1, number):
        raise InputError(f"--label gives {len(labels)} classes for {images(number)}: expected one for all, or one for each")
    return labels[0] if len(labels) == 1 else labels
