"""`nextpixel push RUN owner/name`: a run's model, its card and its figures in a repository of the Hugging Face hub."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.errors import InputError, Notice

RESULT = "result.json"  # of a run: the measurement that its report has made


def add_push(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, or a model's folder")
    parser.add_argument("repo", help="owner/name; it is made where there is none")
    parser.add_argument("--private", action="store_true", help="a new repository is private; one that exists stays as it is")
    parser.add_argument("--revision", help="a branch, made where there is none (default: main)")
    parser.add_argument("--license", help="the licence of the weights as the hub names it, such as apache-2.0")
    parser.add_argument("--results", help="the file of evaluate --json whose figures the card states (default: RUN/result.json)")
    parser.add_argument("--message", default="Push model using nextpixel", help="of the commit")


def run_push(args: Any) -> None:
    """Push, and print the URL."""
    from nextpixel import hub
    from nextpixel.files import read_text
    from nextpixel.models.storage import load, save
    from nextpixel.results.card import with_front_matter
    from nextpixel.results.measurement import read

    if not hub.is_id(args.repo):
        raise InputError(f"{args.repo!r} is no repository: expected owner/name")
    model, own = load(args.run), Path(args.run) / RESULT
    results = Path(args.results) if args.results is not None else own if own.is_file() else None
    found = None if results is None else read(results)
    if found is None:
        warnings.warn(
            f"no figures in the card: {own} is not there; --results FILE takes those of evaluate --json", Notice, stacklevel=2
        )
    with tempfile.TemporaryDirectory() as folder:
        # Written anew and not copied: whatever `load` accepts of an older version is then of this one.
        at = Path(folder, "model")
        save(model, at)
        stored = next(
            (card for card in (Path(args.run, "model", hub.CARD), Path(args.run, hub.CARD)) if card.is_file()), at / hub.CARD
        )
        card = with_front_matter(read_text(stored), args.repo, model.name, args.license, found)
        if "\nlicense: " not in card:
            warnings.warn("no licence in the card: --license apache-2.0 names one", Notice, stacklevel=2)
        files = {**hub.read_folder(at), hub.CARD: card.encode()}
        print(hub.push(files, args.repo, args.message, args.private or None, args.revision))
