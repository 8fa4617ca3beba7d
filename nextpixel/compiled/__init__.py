"""The scan as a program: the calls of `step` and `begin_row` are recorded once, and then run row by row without Python.

    on a processor   recorder (calls)   torch's calls to lines      columns, rows, scan   lines to programs, programs to images
                     kernels            what runs lines, by numba   kept                  programs from one call to the next
    on a GPU         graphs             a row of steps as a CUDA graph

The step-by-step scan (`nextpixel.scan.raster`) is the reference: all give the same images but for rounding.
"""

import torch


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a model's scan cannot be a program, or None if it can.

    Args:
        device, dtype: of the model's weights.

    Example:
        >>> why_not(torch.device("cpu"), torch.bfloat16)
        'programs compute in float32 or float64, not torch.bfloat16'
    """
    if device.type == "cuda":
        return None  # a graph runs what torch runs
    if device.type != "cpu":
        return f"programs run on a processor or a CUDA device, not on {device.type}"
    return None if dtype in (torch.float32, torch.float64) else f"programs compute in float32 or float64, not {dtype}"
