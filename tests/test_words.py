"""Plain technical English: phrases that are banned from code and pages (CONTRIBUTING.md, "Words")."""

import re
from pathlib import Path

import pytest

import nextpixel

ROOT = Path(nextpixel.__file__).parent
FILES = [*sorted(ROOT.rglob("*.py")), *sorted((ROOT.parent / "docs").glob("*.md")), ROOT.parent / "README.md"]
# Verbs of persons for machines, and pictures for facts.
BANNED = (
    r"hangs? (?:on|by)|by a hair|on the word of|take[ns]? down as|nobody|somebody",
    r"(?:models?|machines?|process(?:es)?|programs?|networks?|decoders?|files?) (?:wants?|believes?|knows?|says?|tells?|thinks?)",
    r"must beat|\blaws?\b(?! of)|of its own accord",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_machines_do_not_want_or_know(path):
    text = path.read_text(encoding="utf-8")
    found = [match.group() for pattern in BANNED for match in re.finditer(rf"(?i)\b(?:{pattern})", " ".join(text.split()))]
    assert found == []
