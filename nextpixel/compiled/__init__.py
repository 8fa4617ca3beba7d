"""The scan as a program: the calls of torch that `begin_row` and `step` make are recorded once, and then run row by row.

    recorder, operations, emitter, instructions     torch's calls to instructions
    memory, program_cache                           the memory of programs; programs from one draw to the next
    interpreter, simd, vector_math, draw_kernels    what executes instructions, compiled by numba (jit)
    row_programs, sample; step_programs             whole rows on all cores; single steps, for the codec
    cuda_graphs                                     on a GPU: the steps of a row as a CUDA graph

The step-by-step scan (`nextpixel.scan.raster`) is the reference: all give the same images but for rounding.
"""

import torch

from nextpixel.likelihoods import Categorical, DiscretizedLogisticMixture, Guided, Likelihood


def why_not(device: torch.device, dtype: torch.dtype, law: Likelihood, temperature: float = 1.0) -> str | None:
    """Why a model's scan can not be a program, or None if it can.

    Args:
        device, dtype: of the model's weights.
        law: of a place.
        temperature: divides the logits.

    Example:
        >>> why_not(torch.device("cpu"), torch.bfloat16, Categorical(channels=1, levels=2))
        'programs compute in float32 or float64, not torch.bfloat16'
    """
    if device.type == "cuda":
        return None  # a graph runs what torch runs
    if device.type != "cpu":
        return f"programs run on a processor or a CUDA device, not on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"programs compute in float32 or float64, not {dtype}"
    inner = law.likelihood if isinstance(law, Guided) else law
    if isinstance(inner, DiscretizedLogisticMixture):
        if law is not inner or temperature != 1:
            return "programs draw from a mixture without temperature or guidance"
    elif not isinstance(inner, Categorical):
        return f"programs do not draw from the law {law.name!r}"
    return None
