"""Pictures that are listed or packed by other programs: WebDataset's tars, tables of paths, and MVTec's folders.

WebDataset: members of one name are one sample, 0000.png, 0000.cls and 0000.json.
"""

import csv
import json
import math
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nextpixel.data.arrays import as_labels
from nextpixel.data.folder import no_pictures, stack_pictures
from nextpixel.data.raw import RawImages, split_name
from nextpixel.data.settings import DataSettings
from nextpixel.data.tables import LABEL_NAMES, group_by_split
from nextpixel.errors import InputError, Notice, shown
from nextpixel.files import require_regular
from nextpixel.pictures.headers import SUFFIXES
from nextpixel.pictures.tree import PictureTree

TARS = (".tar", ".tgz", ".tar.gz")
PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "image_id")
SPLIT_NAMES = ("split", "subset", "set", "partition")


# --- tars ------------------------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    """The members of one name."""

    picture: tarfile.TarInfo | None = None
    label: tarfile.TarInfo | None = None
    about: tarfile.TarInfo | None = None


def load_tars(files: list[Path], settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read WebDataset shards; those of one split are joined in the order of their names.

    A label is what `.cls` holds, an integer or a name, or what `.json` has under label, cls or class.

    Raises:
        InputError: a tar is unreadable, holds no pictures or two for one sample, or only some samples have labels.
    """
    return {name: _load_shards(group, settings, progress) for name, group in group_by_split(files).items()}


def _load_shards(files: list[Path], settings: DataSettings, progress: bool) -> RawImages:
    shards = [(file, _samples(file)) for file in files]
    total = sum(len(samples) for _, samples in shards)
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    if not total:
        raise InputError(f"no pictures in {where} (expected members such as 0000.png and 0000.cls)")
    folders = {key.rpartition("/")[0] for _, samples in shards for key in samples}
    if len(folders) > 1 and not any(sample.label or sample.about for _, samples in shards for sample in samples.values()):
        raise InputError(f"{where} is an archive of folders ({shown(sorted(folders)[-1])}, ...): unpack it and name the folder")
    labels: list[int | str | None] = []

    def pictures() -> Iterator[tuple[BinaryIO, str]]:
        for file, samples in shards:
            try:
                with tarfile.open(file) as archive:
                    for key, sample in samples.items():
                        labels.append(_label(archive, sample, f"{file} ({shown(key)})"))
                        yield BytesIO(_content(archive, sample.picture)), f"{shown(sample.picture.name)} of {file}"
            except (tarfile.TarError, OSError, EOFError) as error:
                raise _unreadable(file, error) from error

    images = stack_pictures(pictures(), total, settings, where, progress)
    names = [sample.picture.name for _, samples in shards for sample in samples.values()]
    return RawImages(images, *_joined(labels, where), levels=256, names=names)


def _samples(file: Path) -> dict[str, _Sample]:
    """The samples of a tar that have a picture, by their keys, in its order; what is left alone is counted in a notice."""
    require_regular(file)
    samples, left = dict[str, _Sample](), Counter[str]()
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                if member.isdir() or not stem:
                    continue
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
                place = _place("." + kind.lower())
                if not member.isfile() or place is None:
                    left["." + kind if member.isfile() else "link"] += 1
                elif getattr(sample, place) is not None:
                    one = getattr(sample, place).name
                    raise InputError(f"{file} has {shown(one)} and {shown(member.name)} for one sample: keep one of them")
                else:
                    setattr(sample, place, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _unreadable(file, error) from error
    left["without a picture"] += sum(sample.picture is None for sample in samples.values())
    kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in (+left).most_common(4))
    if kinds:
        warnings.warn(f"{file}: left alone: {kinds}", Notice, stacklevel=2)
    return {key: sample for key, sample in samples.items() if sample.picture is not None}


def _place(kind: str) -> str | None:
    """What a member of a sample is, by its ending."""
    return "picture" if kind in SUFFIXES else {".cls": "label", ".json": "about"}.get(kind)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    return b"" if opened is None else opened.read()


def _label(archive: tarfile.TarFile, sample: _Sample, where: str) -> int | str | None:
    """The label of a sample: an integer, a name, or None."""
    if sample.label is not None:
        text = _content(archive, sample.label).decode(errors="replace").strip()
        return int(text) if text.lstrip("-").isdecimal() else text
    if sample.about is None:
        return None
    try:
        about = json.loads(_content(archive, sample.about))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: its .json is damaged: {' '.join(str(error).split())[:100]}") from error
    found = next((about[name] for name in (*LABEL_NAMES, "cls") if name in about), None) if isinstance(about, dict) else None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def _joined(labels: list[int | str | None], where: str) -> tuple[np.ndarray | None, list[str] | None]:
    """All labels of a split: every image has one, or none has."""
    missing = labels.count(None)
    if missing == len(labels):
        return None, None
    if missing:
        raise InputError(f"{missing} of {len(labels)} images of {where} have no label: expected one for each, or none at all")
    if any(isinstance(label, str) for label in labels):
        labels = [str(label) for label in labels]
    return as_labels(np.array(labels), len(labels), where)


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {file} as a .tar archive: {' '.join(str(error).split())[:150] or 'it ends too early'}")


# --- tables of paths -------------------------------------------------------------------------------------------------


def load_csv(file: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read the pictures that a .csv or .tsv file lists, relative to its folder.

    The first row names the columns: a path (path, file, filename, image, ..., or the only column of picture files), perhaps a
    label (label, labels, class, target, y), an integer or a name, and perhaps a split. Others are left alone, with a notice.

    Raises:
        InputError: unreadable, no such column, or pictures or labels that cannot be used.
    """
    require_regular(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            dialect = "excel-tab" if file.suffix.lower() == ".tsv" else "excel"
            header, *rows = [row for row in csv.reader(opened, dialect) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {file} as a table: {' '.join(str(error).split())[:150]}") from error
    uneven = next((n for n, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise InputError(
            f"row {uneven + 2} of {file} has {len(rows[uneven])} columns: expected {len(header)}, as in its first row"
        )
    names = [name.strip().lower() for name in header]
    path = _column(names, PATH_NAMES, rows)
    if path is None or not rows:
        listed = ", ".join(shown(name) for name in header[:8])
        raise InputError(
            f"{file} has no column of picture files among {listed or 'none'}: expected one called path, file or image"
        )
    label = next((names.index(name) for name in LABEL_NAMES if name in names and names.index(name) != path), None)
    split = next((names.index(name) for name in SPLIT_NAMES if name in names), None)
    vector = _numbers(names, settings.vector, file)
    left = [shown(name) for n, name in enumerate(header) if n not in (path, label, split, *vector)]
    if left:
        more = f" and {len(left) - 6} more" if len(left) > 6 else ""
        warnings.warn(f"{file}: left alone: the columns {', '.join(left[:6])}{more}", Notice, stacklevel=2)
    parts: dict[str, list[list[str]]] = {}
    for row in rows:
        parts.setdefault("all" if split is None else split_name(row[split].strip()), []).append(row)
    loaded = {name: _load_rows(part, path, label, file, settings, progress) for name, part in parts.items()}
    if not vector:
        return loaded
    return {name: replace(raw, vectors=_vectors(parts[name], vector, header, file)) for name, raw in loaded.items()}


def _numbers(names: list[str], wanted: list[str] | None, file: Path) -> list[int]:
    """The positions of the columns that --data.vector names."""
    missing = [name for name in wanted or [] if name.strip().lower() not in names]
    if missing:
        listed = ", ".join(shown(name) for name in names[:8])
        raise InputError(f"--data.vector {shown(missing[0])}: {file} has no such column; it has {listed}")
    return [names.index(name.strip().lower()) for name in wanted or []]


def _vectors(rows: list[list[str]], columns: list[int], header: list[str], file: Path) -> np.ndarray:
    """The numbers of some columns, float32 (N, D)."""
    vectors = np.empty((len(rows), len(columns)), dtype=np.float32)
    for n, row in enumerate(rows):
        for d, column in enumerate(columns):
            try:
                vectors[n, d] = float(row[column])
            except ValueError:
                vectors[n, d] = math.nan
            if not math.isfinite(vectors[n, d]):
                where = f"{file} has {shown(row[column], 40)!r} in the column {shown(header[column])}"
                raise InputError(f"{where}: --data.vector expects numbers")
    if len(rows) > 1 and (wide := np.abs(vectors).max(0) > 100).any():
        what = f"{file}: numbers of {shown(header[columns[int(wide.argmax())]])} are as large as {np.abs(vectors).max():g}"
        warnings.warn(f"{what}: scale them to about 1", Notice, stacklevel=3)
    return vectors


def _column(names: list[str], known: tuple[str, ...], rows: list[list[str]]) -> int | None:
    """The column of picture files, by its values; by its name where several are such."""
    pictures = [n for n in range(len(names)) if rows and all(Path(row[n].strip()).suffix.lower() in SUFFIXES for row in rows)]
    named = [names.index(name) for name in known if name in names]
    if len(pictures) == 1:
        return pictures[0]
    return next((n for n in named if n in pictures or not pictures), None)


def _load_rows(
    rows: list[list[str]], path: int, label: int | None, file: Path, settings: DataSettings, progress: bool
) -> RawImages:
    files = [file.parent / Path(row[path].strip()).expanduser() for row in rows]
    for n, picture in enumerate(files):
        if not picture.is_file():
            raise InputError(f"{file} lists {shown(rows[n][path])}, which is no file: expected paths relative to its folder")
    images = stack_pictures(((picture, str(picture)) for picture in files), len(files), settings, str(file), progress)
    names = [row[path].strip() for row in rows]
    if label is None:
        return RawImages(images, None, None, levels=256, names=names)
    texts = [row[label].strip() for row in rows]
    whole = all(text.lstrip("-").isdecimal() for text in texts if text)
    labels = [None if not text else int(text) if whole else text for text in texts]
    return RawImages(images, *_joined(labels, str(file)), levels=256, names=names)


# --- MVTec -----------------------------------------------------------------------------------------------------------


def is_mvtec(folder: Path) -> bool:
    """Whether a folder has the layout of MVTec's sets: train/good, test/<defect>, ground_truth/<defect>."""
    return (folder / "train" / "good").is_dir() and (folder / "test").is_dir() and (folder / "ground_truth").is_dir()


def load_mvtec(folder: Path, settings: DataSettings, progress: bool) -> dict[str, RawImages]:
    """Read train/good and all of test, in the classes good and defect; the masks in ground_truth are left alone.

    Raises:
        InputError: no pictures, or one that cannot be used; with `settings.strict`, a file that is left out.
    """
    parts: dict[str, RawImages] = {}
    kinds = sorted(child.name for child in (folder / "test").iterdir() if child.is_dir() and not child.name.startswith("."))
    for split in ("train", "test"):
        tree = PictureTree(folder / split)
        tree.report(settings.strict)
        pages = tree.pages([file for file in tree.files if len(file.parts) > 1])
        if not pages:
            raise no_pictures(folder / split, tree)
        images = stack_pictures(((page, str(page)) for page in pages), len(pages), settings, shown(folder / split), progress)
        labels = np.array([page.path.parts[0] != "good" for page in pages], dtype=np.int64)
        parts[split] = RawImages(images, labels, ["good", "defect"], levels=256, names=[f"{split}/{page.name}" for page in pages])
    defects = [shown(kind) for kind in kinds if kind != "good"]
    what = f"classes good and defect ({', '.join(defects[:5])}{', ...' if len(defects) > 5 else ''})"
    warnings.warn(f"{folder} has MVTec's layout: {what}; ground_truth is left alone", Notice, stacklevel=2)
    return parts
