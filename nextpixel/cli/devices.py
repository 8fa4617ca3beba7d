"""The option --device, which every verb takes that computes."""

import re
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from nextpixel.errors import InputError

if TYPE_CHECKING:
    import torch

DEVICE = "where to compute: auto (a GPU where there is one), cpu, cuda, or cuda:1 for the second GPU"


def add_device(parser: ArgumentParser) -> None:
    """The option, which `find_device` reads."""
    parser.add_argument("--device", default="auto", help=DEVICE)


def find_device(text: str) -> "torch.device":
    """The device of this name; of "auto" the first GPU, and the processor where there is none.

    Raises:
        InputError: an unknown device, or one that this machine does not have.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
        >>> find_device("tpu")
        Traceback (most recent call last):
        nextpixel.errors.InputError: --device tpu: expected auto, cpu, cuda or, to name one of several GPUs, cuda:0, cuda:1, ...
    """
    import torch

    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", text, re.ASCII)
    if match is None:
        raise InputError(f"--device {text}: expected auto, cpu, cuda or, to name one of several GPUs, cuda:0, cuda:1, ...")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        text = "cuda" if gpus else "cpu"
    if text.startswith("cuda") and int(match[2] or 0) >= gpus:
        found = "no GPU" if not gpus else "one GPU, cuda:0" if gpus == 1 else f"{gpus} GPUs, cuda:0 to cuda:{gpus - 1}"
        raise InputError(f"--device {text}: torch finds {found} on this machine")
    return torch.device(text)
