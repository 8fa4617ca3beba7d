"""`nextpixel inspect`: what one pixel depends on, from the Jacobian, as numbers and as a picture."""

import inspect
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import add_device, add_force, find_device, pair
from nextpixel.errors import InputError
from nextpixel.files import require_new

# Sizes of an architecture that can be given, where it has them, and their defaults.
OPTIONS = {"blocks": 4, "stages": None, "kernel_size": 3, "first_kernel_size": 3}


def add_inspect(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument(
        "what", nargs="+", help="architectures (pixelcnn gated-pixelcnn), run folders, or masks: the experiment of masks A and B"
    )
    parser.add_argument("--blocks", type=int, help="blocks of an architecture (masks: layers), by default 4 (3)")
    parser.add_argument("--stages", type=int, help="resolutions of pixelcnn++")
    parser.add_argument("--kernel_size", type=int, help="kernels of an architecture or of the masks, by default 3")
    parser.add_argument("--first_kernel_size", type=int, help="first kernel of an architecture, by default 3")
    parser.add_argument("--channels", type=int, default=1, help="channels of an architecture's images")
    parser.add_argument("--size", help="HxW: a run's own by default, else 15x15 (masks: 7x7)")
    parser.add_argument("--place", help="i,j: the pixel (default: in the middle, two thirds down)")
    add_device(parser)
    parser.add_argument("--out", default="receptive-field.png", help="the picture")
    add_force(parser)


def run_inspect(args: Any) -> None:
    """Measure, print one line per model, draw, and print the path."""
    from nextpixel.inspection import Context, colour_context, draw, mask_experiment, model_context

    require_new(args.out, args.force)
    if args.device != "auto" and find_device(args.device).type != "cpu":
        raise InputError(f"--device {args.device}: inspect computes on the CPU, where what is not reached is exactly 0")
    size = None if args.size is None else pair(args.size)
    place = None if args.place is None else pair(args.place)
    contexts: dict[str, Context] = {}
    for what in args.what:
        if what == "masks":
            contexts |= mask_experiment(args.kernel_size or 3, args.blocks or 3, (size or (7, 7))[0])
            continue
        model = _model(what, size, args)
        height, width = model.shape[1:]
        cond = _any_condition(model)
        contexts[what] = model_context(model, place or (2 * height // 3, width // 2), cond)
        if model.colours > 1:
            table = colour_context(model, place, cond)
            seen = "; ".join(f"{c} sees {[int(k) for k in row.nonzero()[0]] or 'none'}" for c, row in enumerate(table))
            print(f"{what}: channels of the same pixel: {seen}")
    for name, context in contexts.items():
        print(f"{name}: {context.summary()}")
    draw(contexts, args.out)
    print(args.out)


def _any_condition(model: Any) -> Any:
    """A condition, if the model needs one: label 0, or a black image; which it is does not change what a pixel depends on."""
    import torch

    from nextpixel.conditions import cond_of, encoder_of

    encoder = encoder_of(model.condition)
    shape = model.shape if encoder is None else encoder.shape  # which another --size does not change
    return cond_of(model.condition, torch.zeros(1, *shape, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def _model(what: str, size: tuple[int, int] | None, args: Any) -> Any:
    from nextpixel.models import MODELS
    from nextpixel.models.storage import load

    if what not in MODELS:
        if located(what) == what and not Path(what).exists():
            raise InputError(f"{what!r} is neither a run folder nor a bundled model nor masks nor one of {', '.join(MODELS)}")
        model = load(what)
        if size:
            model.shape = (model.shape[0], *size)
        return model
    # A number of resolutions and a list of stages are both called stages: an option is what takes a number.
    takes = {name for name, parameter in inspect.signature(MODELS[what]).parameters.items() if parameter.annotation is int}
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    superfluous = [name for name in given if name not in takes]
    if superfluous:
        known = ", ".join(name for name in OPTIONS if name in takes) or "channels and size"
        raise InputError(f"{what} has no --{superfluous[0]}: its options are {known}")
    defaults = {**OPTIONS, "features": 6 * args.channels}
    options = {**{name: value for name, value in defaults.items() if value is not None and name in takes}, **given}
    # A model of models has no sizes of its own: it is as small as its preset for tests.
    start = {} if "features" in takes else MODELS[what].presets["tiny"]
    try:
        return MODELS[what](**{**start, "shape": (args.channels, *(size or (15, 15))), "levels": 4, **options})
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error
