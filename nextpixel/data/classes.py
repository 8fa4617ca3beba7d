"""Names of classes: the order that gives them numbers, and labels of other data matched by name."""

import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nextpixel.data.raw import RawImages
from nextpixel.errors import InputError, Notice, shown

MOST_CLASSES = 65536  # different values of a label column; more are targets of a regression, or numbers of the images
SHOWN = 40  # characters of a name in a list of names


def in_order(names: Sequence[str]) -> list[str]:
    """Each name once, sorted, with the numbers in it as numbers: "10" comes after "2".

    Example:
        >>> in_order(["10", "cat", "2", "cat", "b10", "b9"])
        ['2', '10', 'b9', 'b10', 'cat']
    """

    def key(name: str) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.findall(r"[0-9]+|[^0-9]+", name)
        return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], name

    return sorted(set(names), key=key)


def list_names(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(shown(name, SHOWN) for name in names[:most]) + more


def class_number(text: str, names: Sequence[str] | None, classes: int, option: str = "--label") -> int:
    """The number of a class that is given by its name or, where no class is called so, by its number.

    Raises:
        InputError: there is no such class; the message has the names that are nearest.

    Example:
        >>> class_number("dog", ["cat", "dog"], 2), class_number("2", ["2", "10"], 2), class_number("1", ["cat", "dog"], 2)
        (1, 0, 1)
    """
    if names is not None and text in names:
        return list(names).index(text)
    numbers = names is not None and all(name.isdecimal() for name in names)  # then a number can only be a name
    if re.fullmatch(r"[0-9]{1,9}", text) and not numbers and int(text) < classes:
        return int(text)
    if names is None:
        raise InputError(f"{option} {shown(text)}: expected a number from 0 to {classes - 1} (no class has a name)")
    lower = {name.lower(): name for name in reversed(names)}
    near = [lower[name] for name in difflib.get_close_matches(text.lower(), list(lower), 3, 0.5)]
    hint = f"nearest are {list_names(near)}" if near else f"the classes are {list_names(names)}"
    raise InputError(f"{option} {shown(text)}: no such class; {hint}")


def with_classes(parts: dict[str, RawImages], source: str, wanted: Sequence[str] | None) -> dict[str, RawImages]:
    """Parts of one source whose labels are positions in one list of names: `wanted`, or that of all names that the parts have.

    Labels without names are called by their values, so that 1..k, or values with gaps, become 0..k-1; a line says so. Labels of
    more than `MOST_CLASSES` values are left out, and a line says that too.

    Raises:
        InputError: there are classes that `wanted` lacks.

    Example:
        >>> raw = RawImages(np.zeros((3, 1, 2, 2), dtype=np.uint8), np.array([5, 7, 5]), None, levels=2)
        >>> with_classes({"all": raw}, "a.npz", ["3", "5", "7"])["all"].labels
        array([1, 2, 1])
    """
    labelled = {name: part for name, part in parts.items() if part.labels is not None}
    if not labelled:
        return parts
    named = {name: part.class_names for name, part in labelled.items() if part.class_names is not None}
    if len(named) < len(labelled):
        values = np.unique(np.concatenate([part.labels for name, part in labelled.items() if name not in named]))
        if len(values) > MOST_CLASSES:
            what = f"{len(values)} values of labels in {shown(source)} are no classes (at most {MOST_CLASSES})"
            warnings.warn(f"{what}: the labels are left out", Notice, stacklevel=2)
            return {name: part if name in named else replace(part, labels=None) for name, part in parts.items()}
        if wanted is not None and not all(name.isdecimal() for name in wanted) and values[-1] < len(wanted):
            calls = dict(enumerate(wanted))  # the run's classes have words for names: these are their numbers
        else:
            calls = {int(value): str(value) for value in values}
            if wanted is None and not named and values[-1] >= len(values):
                seen = f"{values[0]} to {values[-1]}"
                line = (
                    f"labels of {shown(source)} are {len(values)} values from {seen}: they become classes 0 to {len(values) - 1}"
                )
                warnings.warn(f"{line}, which keep the values as names", Notice, stacklevel=2)
        for name, part in labelled.items():
            if name not in named:
                places = np.searchsorted(values, part.labels)
                labelled[name] = replace(part, labels=places, class_names=[calls[int(value)] for value in values])
    every = [part.class_names for part in labelled.values()]
    alike = all(own == every[0] for own in every)
    order = list(wanted) if wanted else every[0] if alike else in_order([name for own in every for name in own])
    return {**parts, **{name: _renumbered(part, order, source) for name, part in labelled.items()}}


def _renumbered(part: RawImages, order: list[str], source: str) -> RawImages:
    """A part whose labels count in `order`."""
    if part.class_names == order:
        return part
    places = {name: k for k, name in enumerate(order)}
    numbers = np.array([places.get(name, -1) for name in part.class_names], dtype=np.int64)
    if len(part.labels) and (part.labels.min() < 0 or part.labels.max() >= len(numbers)):
        bad = next(int(label) for label in part.labels if not 0 <= label < len(numbers))
        raise InputError(f"{shown(source)} has label {bad}, but names {len(numbers)} classes: expected 0 to {len(numbers) - 1}")
    labels = numbers[part.labels]
    if (labels < 0).any():
        strange = [part.class_names[k] for k in np.unique(part.labels[labels < 0])]
        raise InputError(
            f"{shown(source)} has classes that the run does not know ({list_names(strange, 3)}): it knows {list_names(order)}"
        )
    return replace(part, labels=labels, class_names=order)
