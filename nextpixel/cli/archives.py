"""Archives: `nextpixel compress RUN IMAGES... -o FILE`, `nextpixel decompress FILE` and `nextpixel info FILE`."""

import csv
import math
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import add_force, pair
from nextpixel.errors import InputError, Notice

if TYPE_CHECKING:
    from nextpixel.coding.archive import Archive
    from nextpixel.models import AutoregressiveModel

# Endings of files that may hold less than their pixels.
LOSSY = (".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".avif", ".jp2", ".j2k", ".jxl")


def add_compress(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, the name of a bundled model, or an id on the Hugging Face hub")
    parser.add_argument("images", nargs="+", help="pictures of 8 bits, grey or RGB, folders of them, or .npy files of integers")
    parser.add_argument("-o", "--out", required=True, help="the archive")
    parser.add_argument("--data.layout", type=str, help="what the dimensions of the arrays are: HWC, NHWC, NCHW, NHW, ...")
    label = "class (its name or number) of all images, or of each, for a class-conditional model"
    parser.add_argument("--label", type=str, nargs="+", help=label)
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
    parser.add_argument("--strict", action="store_true", help="refuse a folder with files that would be left out")
    add_force(parser)


def run_compress(args: Any) -> None:
    """Compress, write, and print the path and the sizes."""
    from nextpixel.coding.archive import Archive
    from nextpixel.coding.format.journal import Journal
    from nextpixel.coding.pictures import find_images
    from nextpixel.coding.writer import Settings, Writer
    from nextpixel.files import require_new, write_aside
    from nextpixel.models.storage import load
    from nextpixel.pictures.read import page_of
    from nextpixel.progress import rows_bar

    out, tile = Path(args.out), None if args.tile is None else pair(args.tile)
    given = [page_of(file)[0] for file in args.images]
    require_new(out, args.force, given)
    named = find_images(args.images, args.strict)
    files = {page_of(file)[0] for file, _ in named}
    require_new(out, args.force, files)
    args.run = located(args.run)
    model = load(args.run)
    names, found = _read(named, model, args.data.layout)
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
    archive = Archive(data)
    print(summary(archive, len(data)))
    _warn_if_larger(archive, len(data), files)


def _warn_if_larger(archive: "Archive", size: int, files: Collection[str | Path]) -> None:
    """Say that an archive saves nothing, and what the reason may be."""
    given = sum(Path(file).stat().st_size for file in files)
    streams = sum(entry.stored for entry in archive.entries)
    pixels = sum(archive.header.channels * entry.size[0] * entry.size[1] for entry in archive.entries)
    wanted = pixels * math.ceil(math.log2(archive.header.levels)) / 8
    if size <= given:
        return
    if streams > wanted:
        why = "the model needs more bits than the pixels have: it was not made for such images"
    elif archive.embedded > size - given:
        why = "the model inside is larger than what it saves"
    elif any(Path(file).suffix.lower() in LOSSY for file in files):
        why = "JPEG and the like drop what they cannot store shortly, and an archive keeps every pixel exactly"
    else:
        why = "the images are few or small, or the model expects others"
    warnings.warn(f"the archive has {size} bytes, the files that went in {given}: {why}", Notice, stacklevel=2)


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


def _read(files: list[tuple[str, str]], model: "AutoregressiveModel", layout: str | None) -> tuple[list[str], list[Any]]:
    from nextpixel.coding.pictures import read_images
    from nextpixel.data.settings import DataSettings
    from nextpixel.progress import track

    DataSettings(layout=layout).check()
    if layout is not None and not any(path.endswith(".npy") for path, _ in files):
        raise InputError(f"--data.layout {layout} is for .npy arrays, but all {len(files)} files are pictures: leave it out")
    found = [image for path, name in track(files, len(files), "reading") for image in read_images(path, model, name, layout)]
    return [name for name, _ in found], [x for _, x in found]


def _cond(labels: list[str] | None, number: int, model: "AutoregressiveModel", run: str) -> Any:
    """The classes as the model takes them.

    Raises:
        InputError: as many as there are images, or one, are not given; or the model has no classes.
    """
    from nextpixel.cli.runs import label_number

    if labels is None:
        return None
    if model.condition is None or model.condition.source != "label":
        raise InputError(f"--label {labels[0]}: the model in {run} is not class-conditional")
    if len(labels) not in (1, number):
        raise InputError(f"--label gives {len(labels)} classes for {images(number)}: expected one for all, or one for each")
    numbers = [label_number(label, model) for label in labels]
    return numbers[0] if len(numbers) == 1 else numbers


def add_decompress(parser: ArgumentParser, argv: list[str]) -> None:
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


def run_decompress(args: Any) -> None:
    """Decode to a folder, and print its path and how many images it holds."""
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
                write_image(x, aside, name, archive.model)
                written += 1
    print(f"{out}: {images(written)}")


def add_info(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("archive", help="from nextpixel compress")
    parser.add_argument("--csv", help="write name, size, label, bytes and bits/dim of every image to this file")
    add_force(parser)


def run_info(args: Any) -> None:
    """Print the header, the sizes and a line for each image."""
    from nextpixel.coding.archive import Archive
    from nextpixel.files import require_new

    if args.csv is not None:
        require_new(args.csv, args.force, [args.archive])
    with Archive.open(args.archive) as archive:
        if args.csv is not None:
            _write_csv(archive, args.csv)
        header = archive.header
        print(summary(archive, Path(args.archive).stat().st_size))
        tile = "none" if header.tile is None else "{}x{}".format(*header.tile)
        bound = "" if header.epsilon is None else f", error bound {header.epsilon:.2g}"
        print(f"model    {header.model}, {header.channels} channels, {header.levels} levels, fingerprint {header.fingerprint}")
        print(f"coding   {header.mode}, {header.lanes} lanes, tiles {tile}, tables of {header.bits} bits{bound}")
        print(f"made by  {', '.join(f'{name} {value}' for name, value in header.made.items())}")
        for entry in archive.entries:
            symbols = header.channels * entry.size[0] * entry.size[1]
            label = "" if entry.label is None else f"  label {entry.label}"
            sizes = f"{entry.size[0]}x{entry.size[1]}  {entry.stored} bytes  {8 * entry.stored / symbols:.4f} bits/dim"
            tiles = f"CRC-32 {entry.tiles[0].crc:08x}" if len(entry.tiles) == 1 else f"{len(entry.tiles)} tiles"
            print(f"{sizes}  {tiles}{label}  {entry.name}")


def _write_csv(archive: "Archive", path: str) -> None:
    from nextpixel.files import write_aside

    with write_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "height", "width", "label", "tiles", "bytes", "bits_per_dim"])
        for entry in archive.entries:
            symbols = archive.header.channels * entry.size[0] * entry.size[1]
            label = "" if entry.label is None else entry.label
            writer.writerow([entry.name, *entry.size, label, len(entry.tiles), entry.stored, f"{8 * entry.stored / symbols:.6f}"])
