"""What is coded side by side: images are cut into tiles, and tiles of one size make groups."""

from typing import NamedTuple

from nextpixel.errors import InputError

LEAST_TILE = 8


class Tile(NamedTuple):
    """Which image it belongs to, which of its tiles it is, and where it lies there."""

    image: int
    number: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def symbols(self, channels: int) -> int:
        """How many it has."""
        return channels * self.size[0] * self.size[1]


def tiles_of(image: int, size: tuple[int, int], tile: tuple[int, int] | None) -> list[Tile]:
    """The tiles of an image, row by row; those at its lower and right ends may be smaller. Without `tile` it is one.

    Example:
        >>> [tile.size for tile in tiles_of(0, (20, 30), (16, 16))]
        [(16, 16), (16, 14), (4, 16), (4, 14)]
    """
    steps = tile or size
    places = [(i, j) for i in range(0, size[0], steps[0]) for j in range(0, size[1], steps[1])]
    return [Tile(image, k, (i, min(i + steps[0], size[0])), (j, min(j + steps[1], size[1]))) for k, (i, j) in enumerate(places)]


def count_tiles(size: tuple[int, int], tile: tuple[int, int] | None) -> int:
    """How many tiles an image has, without making them.

    Example:
        >>> count_tiles((20, 30), (16, 16))
        4
    """
    return 1 if tile is None else -(-size[0] // tile[0]) * -(-size[1] // tile[1])


def groups(sizes: list[tuple[int, int]], tile: tuple[int, int] | None, lanes: int) -> list[list[Tile]]:
    """All tiles of images of these sizes in groups of equal size, at most `lanes` in each, in the order of their first images.

    Example:
        >>> [[tile.image for tile in group] for group in groups([(8, 8), (9, 9), (8, 8), (8, 8)], None, lanes=2)]
        [[0, 2], [3], [1]]
    """
    alike: dict[tuple[int, int], list[Tile]] = {}
    for image, size in enumerate(sizes):
        for one in tiles_of(image, size, tile):
            alike.setdefault(one.size, []).append(one)
    return [tiles[a : a + lanes] for tiles in alike.values() for a in range(0, len(tiles), lanes)]


def check_tile(tile: tuple[int, int] | None) -> None:
    """Refuse tiles whose pixels have hardly any neighbours to depend on.

    Raises:
        InputError: a side below 8.
    """
    if tile is not None and min(tile) < LEAST_TILE:
        raise InputError(f"tiles must be at least {LEAST_TILE}x{LEAST_TILE}, not {tile[0]}x{tile[1]}")
