"""The pictures of a folder, found in a fixed order, and a count of every file that is left out, with the reason."""

import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nextpixel.errors import InputError, Notice, shown
from nextpixel.pictures.headers import SUFFIXES, has_decoder
from nextpixel.pictures.read import count_pages

# The kinds of files that may hold several pages or frames.
_SEVERAL = (".png", ".gif", ".webp", ".tif", ".tiff", ".avif")
_MOST_REASONS = 6


@dataclass(frozen=True)
class Page:
    """A page or frame of a picture file below a folder: `page` from 0, None where it is the only one."""

    folder: Path
    path: PurePosixPath
    page: int | None

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.folder / self.path

    @property
    def name(self) -> str:
        """Its path below the folder; of a page, file#page from 1."""
        return str(self.path) if self.page is None else f"{self.path}#{self.page + 1}"

    def __str__(self) -> str:
        return str(self.folder / self.name)


@dataclass
class PictureTree:
    """The picture files anywhere below `root`: those of a folder by their sorted names, then those of its sub-folders.

    A symbolic link is followed if it leads to what is not found without it, once, and never to a folder that holds `root`.

    Args:
        root: the folder.
        arrays: whether .npy files count as pictures.

    Attributes:
        files: their paths below it.
        left_out: how many files are no pictures, by their kind.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", "notes.txt"):
        ...     (folder / name).touch()
        >>> tree = PictureTree(folder)
        >>> [str(file) for file in tree.files], tree.describe()
        (['a.png', 'b.png'], '1 of 3 files left out: 1 .txt')
    """

    root: Path
    arrays: bool = False
    files: list[PurePosixPath] = field(init=False, default_factory=list)
    left_out: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._real = {os.path.realpath(self.root)}
        for folder, names, files in os.walk(self.root):
            for name in [*names, *files]:
                if not os.path.islink(path := os.path.join(folder, name)):
                    self._real.add(os.path.realpath(path))
        self._walk(self.root, PurePosixPath())

    def _walk(self, folder: Path, below: PurePosixPath) -> None:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise InputError(f"cannot read the folder {shown(folder)}: {error.strerror}") from error
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                self.left_out["hidden"] += 1
            elif entry.is_symlink() and not self._leads_on(entry):
                self.left_out["symbolic link" if entry.exists() else "broken link"] += 1
            elif entry.is_dir():
                folders.append(entry)
            else:
                self._take(entry, below / entry.name)
        for entry in folders:
            self._walk(entry, below / entry.name)

    def _leads_on(self, link: Path) -> bool:
        """Whether a link leads to what is read neither without it nor by another link."""
        real, root = os.path.realpath(link), os.path.realpath(self.root)
        if not os.path.exists(real) or real in self._real or real in self._seen or os.path.commonpath([real, root]) == real:
            return False
        self._seen.add(real)
        return True

    def _take(self, file: Path, path: PurePosixPath) -> None:
        suffix = file.suffix.lower()
        if not file.is_file():
            self.left_out["no regular file"] += 1
        elif self.arrays and suffix == ".npy":
            self.files.append(path)
        elif suffix not in SUFFIXES:
            self.left_out[shown(suffix)[:20] or "without ending"] += 1
        elif not has_decoder(suffix):
            self.left_out[f"{suffix} (no decoder)"] += 1
        else:
            self.files.append(path)

    def pages(self, files: list[PurePosixPath] | None = None, previews: bool = False) -> list[Page]:
        """The images of some files (of all): each page and frame is one.

        Raises:
            InputError: a file that may hold several pages cannot be opened.
        """
        found = []
        for path in self.files if files is None else files:
            several = path.suffix.lower() in _SEVERAL or previews
            number = count_pages(self.root / path, previews=previews) if several else 1
            found += [Page(self.root, path, None if number == 1 else n) for n in range(number)]
        return found

    def describe(self) -> str:
        """How many files are left out, and of which kinds; empty where there are none."""
        out = sum(self.left_out.values())
        if not out:
            return ""
        kinds = [f"{number} {kind}" for kind, number in self.left_out.most_common()]
        if len(kinds) > _MOST_REASONS:
            kinds[_MOST_REASONS - 1 :] = [
                f"{out - sum(n for _, n in self.left_out.most_common(_MOST_REASONS - 1))} of other kinds"
            ]
        return f"{out} of {out + len(self.files)} files left out: {', '.join(kinds)}"

    def report(self, strict: bool = False) -> None:
        """Count what is left out, in a `Notice`.

        Raises:
            InputError: there is something, and `strict` is set.
        """
        if text := self.describe():
            if strict:
                raise InputError(f"{shown(self.root)}: {text}; without --strict the others are used")
            warnings.warn(f"{shown(self.root)}: {text}", Notice, stacklevel=2)
