"""What is coded side by side: images are cut into tiles, and tiles of one size make groups."""

from typing import NamedTuple

from nextpixel.errors import InputError

LEAST_TILE = 8
# What is decoded without asking. Usual images have far fewer symbols for each byte, those of a single colour any number.
FREE_SYMBOLS, FREE_SYMBOLS_PER_BYTE = 2**22, 1000


class Part(NamedTuple):
    """A tile: which image it belongs to, which of its tiles it is, and where it lies there."""

    image: int
    tile: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


def parts_of(image: int, size: tuple[int, int], tile: tuple[int, int] | None) -> list[Part]:
    """The tiles of an image, row by row; those at its lower and right ends may be smaller. Without `tile` it is one.

    Example:
        >>> [part.size for part in parts_of(0, (20, 30), (16, 16))]
        [(16, 16), (16, 14), (4, 16), (4, 14)]
    """
    steps = tile or size
    places = [(i, j) for i in range(0, size[0], steps[0]) for j in range(0, size[1], steps[1])]
    return [Part(image, k, (i, min(i + steps[0], size[0])), (j, min(j + steps[1], size[1]))) for k, (i, j) in enumerate(places)]


def groups(sizes: list[tuple[int, int]], tile: tuple[int, int] | None, lanes: int) -> list[list[Part]]:
    """All tiles of images of these sizes in groups of equal size, at most `lanes` in each, in the order of their first images.

    Example:
        >>> [[part.image for part in group] for group in groups([(8, 8), (9, 9), (8, 8), (8, 8)], None, lanes=2)]
        [[0, 2], [3], [1]]
    """
    alike: dict[tuple[int, int], list[Part]] = {}
    for image, size in enumerate(sizes):
        for part in parts_of(image, size, tile):
            alike.setdefault(part.size, []).append(part)
    return [parts[a : a + lanes] for parts in alike.values() for a in range(0, len(parts), lanes)]


def check_tile(tile: tuple[int, int] | None) -> None:
    """Refuse tiles so small that next to nothing could be learned from a neighbour.

    Raises:
        InputError: a side below 8.
    """
    if tile is not None and min(tile) < LEAST_TILE:
        raise InputError(f"tiles must be at least {LEAST_TILE}x{LEAST_TILE}, not {tile[0]}x{tile[1]}")


def check_limit(symbols: int, limit: int | None, size: int, where: str) -> None:
    """Refuse to decode more symbols than `limit`, or without one more than usual for an archive of this many bytes.

    A stream's length is no bound: that of a single colour may be empty, so a small file may declare much work.

    Raises:
        InputError: too many.

    Example:
        >>> check_limit(10**7, limit=None, size=99, where="a.npx")
        Traceback (most recent call last):
        nextpixel.errors.InputError: a.npx declares 10000000 symbols in 99 bytes: if you trust it, decode with a limit of 10000000
    """
    if symbols > (max(FREE_SYMBOLS, FREE_SYMBOLS_PER_BYTE * size) if limit is None else limit):
        beyond = "" if limit is None else f", beyond the limit of {limit}"
        raise InputError(
            f"{where} declares {symbols} symbols in {size} bytes{beyond}: if you trust it, decode with a limit of {symbols}"
        )
