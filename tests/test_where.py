"""docs/design.md, "Where it stands": each file of the tables holds the name beside it."""

import ast
import re
from pathlib import Path

import pytest

import nextpixel

PACKAGE = Path(nextpixel.__file__).parent
PAGE = PACKAGE.parent / "docs" / "design.md"
SECTION = PAGE.read_text(encoding="utf-8").split("## Where it stands")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| (.+?) \| `(\S+\.py)` \| `([\w.]+)` \|$", SECTION, re.MULTILINE)


def names(nodes):
    """What statements define, by name."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                found[target.id] = node
    return found


def test_there_are_twenty_sentences_and_twelve_changes():
    sentences, changes = (len(re.findall(r"^\| .* \| `", part, re.MULTILINE)) for part in SECTION.split("A change, and"))
    assert (sentences >= 20, changes >= 12) == (True, True)
    assert sentences + changes == len(ROWS)


@pytest.mark.parametrize(("what", "file", "name"), ROWS)
def test_it_stands_there(what, file, name):
    nodes = ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        assert part in names(nodes), f"{file} has no {name}: {what}"
        nodes = getattr(names(nodes)[part], "body", [])
