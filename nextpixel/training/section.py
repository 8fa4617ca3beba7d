"""A part of a run's report that only some models have."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """What a part of the report says.

    Args:
        markdown: for report.md, from its heading on.
        lines: the same in short, for the console.
        pictures: that it shows, relative to the run folder.
    """

    markdown: str
    lines: list[str]
    pictures: list[Path]
