"""`nextpixel data SOURCE`: what training would read, without training."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.cli.parser import add_force, add_settings
from nextpixel.data.settings import FORMS, DataSettings
from nextpixel.errors import InputError

MOST_SAMPLES = 10000


def add_data(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("source", help=FORMS)
    parser.add_argument("--out", help="a .png sheet of samples")
    parser.add_argument("--samples", type=int, default=36, help="images on the sheet, spread over all that are trained on")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_force(parser)
    add_settings(parser, "data", DataSettings, skip=("source",))


def run_data(args: Any) -> None:
    """Print the figures, and write the sheet."""
    from nextpixel.cli.parser import output
    from nextpixel.data.survey import as_json, describe, look, mixed

    if not 1 <= args.samples <= MOST_SAMPLES:
        raise InputError(f"--samples is {args.samples}: expected 1 to {MOST_SAMPLES}")
    settings = DataSettings(source=args.source, **dict(args.data))
    settings.check()
    out = None if args.out is None else output(args.out, (".png",), args.force, [args.source])
    found = look(settings)
    if not hasattr(found, "counts"):
        sizes = [{"channels": c, "height": h, "width": w, "images": n} for (c, h, w), n in found.most_common()]
        lines = mixed(settings.source, found)
        figures = {"source": settings.source, "images": found.total(), "sizes": sizes}
        print(json.dumps(figures, indent=2) if args.json else "\n".join(lines))
        if out is not None:
            raise InputError(f"no sheet {out}: the pictures differ in size or kind, and must be made alike first")
        return
    print(json.dumps(as_json(found, settings), indent=2) if args.json else "\n".join(describe(found, settings)))
    if out is not None:
        write_sheet(found, settings, out, args.samples)
        if not args.json:
            print(out)


def write_sheet(found: Any, settings: DataSettings, out: Path, most: int) -> None:
    """Training images as the model would see them, with their classes; without three splits, all there are."""
    from nextpixel.data.images import Images
    from nextpixel.data.splits import load_source
    from nextpixel.pictures.grid import save_grid

    if found.splits is None:
        name, part = next(iter(load_source(settings.source, settings).items()))
        images = Images(part, settings, split=name)
    else:
        images = found.splits.train
    x, labels = images.__getitems__(images.spread(most))
    names = None if labels is None else images.class_names
    captions = None if labels is None else [str(k) if names is None else names[k] for k in labels.tolist()]
    save_grid(x, images.levels, out, captions=captions)
