"""`nextpixel complete RUN --image FILE`: draw what is unknown of pictures or arrays, given what is known."""

import warnings
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nextpixel.bundled import located
from nextpixel.cli.parser import GUIDANCE, LIKE, add_condition, add_device, add_force, find_device, output
from nextpixel.errors import InputError, Notice, shown

if TYPE_CHECKING:
    from torch import Tensor

    from nextpixel.models import AutoregressiveModel

KNOWN = (
    "what is known: top:0.5 (default), left:0.3, ..., random:0.1 for places at random, or a mask picture, white where known. A "
    "model trained with --model.condition known sees all of it; any other draws each place given the earlier ones alone"
)
MISSING = "all is known but a rectangle: its first row, first column, height and width, as 8,8,16,16"
UPSCALE = "the image is every s-th row and column of one s times as large, which is drawn"
MISSING_VALUE = "nan, or the number that stands where nothing was measured: these values are unknown, all others known"
PARTICLES = (
    "draw by sequential Monte Carlo with so many particles (64 is a start), so that any model sees all that is known, at the "
    "cost of as many scans; the effective sample size is printed"
)
ARRAYS = (".npy", ".npz")


def add_complete(parser: ArgumentParser, argv: list[str]) -> None:
    """The arguments."""
    parser.add_argument("run", help="a run folder, a model folder, the name of a bundled model, or an id on the Hugging Face hub")
    parser.add_argument("--image", nargs="+", required=True, help="picture files, all of one size, or one .npy or .npz file")
    parser.add_argument("--known", help=KNOWN)
    parser.add_argument("--missing", help=MISSING)
    parser.add_argument("--upscale", type=int, help=UPSCALE)
    parser.add_argument("--missing-value", help=MISSING_VALUE)
    parser.add_argument("--particles", type=int, help=PARTICLES)
    parser.add_argument("-n", type=int, default=5, help="completions per image")
    add_condition(parser, "the class of the images, for a class-conditional model (default: the labels of a .npz)", LIKE)
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of places at random")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 more likely images, above 1 more varied ones")
    parser.add_argument("--guidance", type=float, default=1.0, help=GUIDANCE)
    add_device(parser)
    parser.add_argument("--out", default="completions.png", help="a .png with a row per image, or the integers: .npy or .npz")
    parser.add_argument(
        "--maps",
        action="store_true",
        help="also write OUT-mean.png and OUT-uncertainty.png: mean and standard deviation of each place over the completions",
    )
    add_force(parser)


def run_complete(args: Any) -> None:
    """Complete, write, and print the path."""
    from nextpixel.cli.runs import RunConditions, notice_guidance, write_images
    from nextpixel.models.storage import load
    from nextpixel.pictures.grid import save_completions, save_maps
    from nextpixel.pictures.read import page_of
    from nextpixel.progress import rows_bar

    given = [f"--{name}" for name in ("known", "missing", "upscale", "missing-value") if args[name.replace("-", "_")] is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: expected one of them, which says what is known")
    inputs = [*(page_of(path)[0] for path in args.image), args.known, args.like]
    out = output(args.out, force=args.force, inputs=inputs)
    maps = [out.with_name(f"{out.stem}-{what}.png") for what in ("mean", "uncertainty")] if args.maps else []
    for path in maps:
        output(str(path), force=args.force, inputs=inputs)
    device = find_device(args.device)
    args.run = located(args.run)
    model = load(args.run).to(device)
    if maps and (model.codes or args.n < 2):
        reason = "codes have no mean" if model.codes else f"-n {args.n} shows no spread: expected at least 2"
        raise InputError(f"--maps: {reason}")
    x, known, labels = _given(args, model)
    conditions, needed = RunConditions(model, args.run), args.guidance != 0
    label = labels if args.label is None and needed and conditions.takes("label") else args.label
    cond = conditions.cond(label, args.like, needed=needed)
    notice_guidance(args.guidance, model, args.run)
    if args.particles is not None:
        y = _by_particles(model, x, known, cond, args)
    else:
        notice_later(model, known, tuple(x.shape))
        with rows_bar("completing", model.scan_rows(len(x) * args.n, tuple(x.shape[2:]))) as progress:
            y = model.complete(x, known, args.n, cond, args.seed, args.temperature, progress=progress, guidance=args.guidance)
    each = y.unflatten(0, (len(x), args.n))
    if out.suffix == ".png":
        save_completions(x, known, each, model.levels, out, codes=model.codes)
    else:
        write_images(y, out, model, cond)
    if maps:
        save_maps(each, model.levels, *maps)
    for path in (out, *maps):
        print(path)


def _by_particles(model: "AutoregressiveModel", x: "Tensor", known: "Tensor", cond: Any, args: Any) -> "Tensor":
    """Completions by sequential Monte Carlo, and a line about each image's particles."""
    from nextpixel.progress import rows_bar
    from nextpixel.sampling.particles import collapse, particles

    if args.guidance != 1 or args.temperature != 1:
        raise InputError("--particles draws at --guidance 1 and --temperature 1")
    with rows_bar("completing", model.scan_rows(len(x) * args.particles, tuple(x.shape[2:]))) as progress:
        found = particles(model, x, known, args.particles, cond, args.seed, progress)
    for k, (size, log_p) in enumerate(zip(found.effective.tolist(), found.log_p_known.tolist(), strict=True)):
        print(f"image {k}: {size:.1f} of {args.particles} particles are effective; known part {-log_p:.2f} nats")
    if notice := collapse(found):
        warnings.warn(notice, Notice, stacklevel=2)
    return found.draw(args.n, args.seed)


def _given(args: Any, model: "AutoregressiveModel") -> "tuple[Tensor, Tensor, Tensor | None]":
    """Symbols (B, C, H, W), which of them are known, and the labels of a .npz.

    Raises:
        InputError: a file cannot be read or does not fit the model, or an option does not fit the images.
    """
    from nextpixel.pictures.masks import enlarged, load_mask, without_rectangle

    if args.missing_value is not None:
        try:
            missing = float(args.missing_value)
        except ValueError:
            raise InputError(f"--missing-value {shown(args.missing_value)}: expected nan or a number") from None
        return *_measured(args.image, missing, model), None
    x, labels = _read(args.image, model)
    height, width = x.shape[2:]
    if args.upscale is not None:
        return *enlarged(x, args.upscale), labels
    if args.missing is not None:
        return x, without_rectangle(args.missing, height, width), labels
    return x, load_mask(args.known or "top:0.5", height, width, args.seed), labels


def _read(files: list[str], model: "AutoregressiveModel") -> "tuple[Tensor, Tensor | None]":
    """The symbols of all pictures, or of the images of one array file and their labels.

    Raises:
        InputError: a file cannot be read, or does not hold what this model draws.
    """
    from nextpixel.data.images import Images
    from nextpixel.data.settings import DataSettings
    from nextpixel.data.splits import load_source
    from nextpixel.pictures.read import load_image

    if len(files) == 1 and files[0].endswith(ARRAYS):
        # Labels are numbers of the model's classes, as `sample` writes them: they stay as they are.
        settings = DataSettings(source=files[0], levels=model.levels, split_by="position")
        parts = load_source(files[0], settings)
        if list(parts) != ["all"]:
            raise InputError(f"{files[0]} has the splits {', '.join(parts)}: expected one array of images")
        images = Images(parts["all"], settings)
        if model.codes:
            images.check_codes()
        return images.tensor(), images.labels
    if model.codes:
        raise InputError(f"--image {files[0]}: this model draws codes, so expected one .npy or .npz file of them")
    return _stacked(files, lambda path: load_image(path, model.levels, model.shape[0])), None


def _measured(files: list[str], missing: float, model: "AutoregressiveModel") -> "tuple[Tensor, Tensor]":
    """The symbols of an array or of pictures, and the mask of those that do not have the value `missing` in the file.

    Raises:
        InputError: a file cannot be read, or its other values are no symbols.
    """
    import numpy as np
    import torch

    from nextpixel.data.arrays import as_images, read_npy
    from nextpixel.data.images import Images
    from nextpixel.data.raw import RawImages
    from nextpixel.data.settings import DataSettings
    from nextpixel.pictures.read import load_image, read_picture

    if len(files) == 1 and files[0].endswith(".npy"):
        values = read_npy(files[0])
        if values.dtype.kind not in "fiu":
            raise InputError(f"{files[0]} holds {values.dtype}: expected numbers")
        unknown = np.isnan(values) if np.isnan(missing) else values == missing
        rest = np.where(unknown, 0, values)
        if not (np.isfinite(rest).all() and (rest == np.rint(rest)).all() and np.abs(rest).max(initial=0) < 2**31):
            raise InputError(f"{files[0]} has values that are no whole numbers: quantise them to 0..{model.levels - 1} first")
        settings = DataSettings(source=files[0], levels=model.levels)
        raw = RawImages(as_images(rest.astype(np.int64), files[0], settings), None, None, model.levels)
        mask = as_images(unknown, files[0], settings).astype(bool)
        return Images(raw, settings).tensor(), torch.from_numpy(~mask)
    if model.codes or any(path.endswith(ARRAYS) for path in files):
        expected = "one .npy file" if model.codes else "pictures or one .npy file"
        raise InputError(f"--missing-value with --image {files[0]}: expected {expected}")
    x = _stacked(files, lambda path: load_image(path, model.levels, model.shape[0]))
    pixels = _stacked(files, lambda path: torch.from_numpy(read_picture(path)))
    return x, (pixels != missing).any(1, keepdim=True)


def _stacked(files: list[str], read: Any) -> "Tensor":
    """All pages of picture files, read one by one, of one size."""
    import torch

    from nextpixel.pictures.read import pages_of

    pages = [page for path in files for page in pages_of(path)]
    pictures = [read(path) for path in pages]
    for path, picture in zip(pages, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = f"{tuple(picture.shape[1:])} and {tuple(pictures[0].shape[1:])}"
            raise InputError(f"{path} and {pages[0]} differ in size: {sizes}; complete them one by one")
    return torch.stack(pictures)


def notice_later(model: "AutoregressiveModel", known: "Tensor", shape: tuple[int, ...]) -> None:
    """One line where a model's completions cannot see some of what is known."""
    from nextpixel.conditions import sees_known

    if sees_known(model.condition):
        return
    mask, order = known.expand(shape).cpu(), model.order(*shape[2:])
    first = order.expand(shape).masked_fill(mask, order.numel()).flatten(1).min(1).values[:, None, None, None]
    later = int((mask & (order > first)).sum())
    if later:
        what = f"{later} of {int(mask.sum())} known symbols come after unknown ones, which are drawn without them"
        warnings.warn(f"{what}: a model trained with --model.condition known sees them all", Notice, stacklevel=2)
