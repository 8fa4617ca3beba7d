"""`nextpixel info FILE`: what an archive holds and how it was made, without its model."""

from typing import Any

from jsonargparse import ArgumentParser


def add_arguments(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("archive", help="from nextpixel compress")


def run(args: Any) -> None:
    """Print the header, the sizes and a line for each image."""
    from pathlib import Path

    from nextpixel.cli.compress import summary
    from nextpixel.coding.archive import Archive

    with Archive.open(args.archive) as archive:
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
