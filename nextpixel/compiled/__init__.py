"""The scan as a program: the calls of torch that `begin_row` and `step` make are recorded once, and then run row by row.

    recorder, operations, emitter, instructions     torch's calls to instructions
    memory, program_cache                           the memory of programs; programs from one draw to the next
    interpreter, simd, vector_math, draw_kernels    what executes instructions, compiled by numba (jit)
    row_programs, sample; step_programs             whole rows on all cores; single steps, for the codec
    cuda_graphs                                     on a GPU: the steps of a row as a CUDA graph

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
