"""The tables of README and docs, written from the measurements: `python -m nextpixel.results.tables` or `make tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Its columns and rows are in tables.yaml, where a cell may hold
`{MEASUREMENT:.2f}`, its figure and error in Python's format, or `{MEASUREMENT.FIELD}`, a field of it or of its `also`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nextpixel.errors import InputError, shown
from nextpixel.files import read_text, write_text
from nextpixel.results.measurement import Measurement, read_all

SPECIFICATION = Path(__file__).parent / "tables.yaml"
PLACE = re.compile(r"\{([a-z0-9-]+)(?:\.([a-z_]+))?(?::(\.\d+[fge%]|,))?\}")
TABLE = re.compile(r"(?ms)^<!-- table: ([a-z0-9-]+) -->\n(.*?)^<!-- end -->$")


def cell(text: str, found: Mapping[str, Measurement]) -> str:
    """A cell with the figures in it.

    Raises:
        InputError: there is no such measurement, or it has no such field.

    Example:
        >>> cell("**{half:.2f}**, {half.images} images", {"half": Measurement("half", 0.5, "nats", 0.125, 4)})
        '**0.50 ± 0.12**, 4 images'
    """

    def filled(match: re.Match[str]) -> str:
        name, part, form = match.groups()
        if name not in found:
            raise InputError(f"{SPECIFICATION.name}: no measurement {shown(name)}, expected one of {shown(', '.join(found))}")
        one = found[name]
        if part is None:
            return one.text(form or "")
        value = one.also.get(part, getattr(one, part, None))
        if value is None:
            raise InputError(f"{SPECIFICATION.name}: the measurement {shown(name)} has no {shown(part)}")
        return format(value, form or "")

    return PLACE.sub(filled, text)


def table(columns: list[str], rows: list[list[str]], found: Mapping[str, Measurement]) -> str:
    """A table in Markdown, with a line for each row."""
    lines = [[cell(text, found) for text in row] for row in rows]
    if wrong := [row for row in lines if len(row) != len(columns)]:
        raise InputError(f"{SPECIFICATION.name}: a row of {len(wrong[0])} cells, expected {len(columns)}: {shown(wrong[0])}")
    rule = "|" + "---|" * len(columns) + "\n"
    head, *body = ("|" + "".join(f" {text} |" if text else " |" for text in row) + "\n" for row in (columns, *lines))
    return head + rule + "".join(body)


def written(page: str, tables: Mapping[str, Any], found: Mapping[str, Measurement], path: str | Path = "the page") -> str:
    """The text of a page with all of its tables as the measurements have them.

    Raises:
        InputError: a table is not in tables.yaml, or has no end; or as `cell`.
    """

    def one(match: re.Match[str]) -> str:
        name = match[1]
        if name not in tables:
            raise InputError(f"{path}: no table {shown(name)} in {SPECIFICATION.name}, expected one of {', '.join(tables)}")
        return f"<!-- table: {name} -->\n{table(**tables[name], found=found)}<!-- end -->"

    if page.count("<!-- table: ") != len(TABLE.findall(page)):
        raise InputError(f"{path}: a table without its end, expected <!-- table: NAME -->, the table, <!-- end -->")
    return TABLE.sub(one, page)


def pages(root: Path) -> list[Path]:
    """The pages that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def specification() -> dict[str, Any]:
    """The columns and rows of each table."""
    return yaml.safe_load(read_text(SPECIFICATION))


def main() -> None:
    """Write all tables of the checkout that the working directory is in, and name the pages that have changed."""
    found, tables = read_all(), specification()
    for path in pages(Path.cwd()):
        page = read_text(path)
        new = written(page, tables, found, path)
        if new != page:
            write_text(path, new)
            print(path.name)


if __name__ == "__main__":
    main()
