"""Functions that a recorder of torch's calls takes as one: see `nextpixel.compiled.recorder`.

They go to the recorder by torch's own way (`torch.overrides`), whose state belongs to each thread.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

Function = TypeVar("Function", bound=Callable[..., Any])


class NotRecordableError(Exception):
    """Something that a recorder has no record for."""


def recordable(function: Function) -> Function:
    """While a `TorchFunctionMode` is active, a call goes to it as one of torch's functions would, and to nobody else.

    Example:
        >>> @recordable
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double(x=3)
        6
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # A mode takes calls with arguments of any type, so one argument tells whether there is one.
        one = args[-1:] or tuple(kwargs.values())[:1]
        if has_torch_function(one):
            return handle_torch_function(call, one, *args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


@recordable
def repeat(function: Callable[[int], None], times: int) -> None:
    """function(0), function(1), ... as one call: a record of it need not be as long as it takes.

    Example:
        >>> repeat(print, 2)
        0
        1
    """
    for k in range(times):
        function(k)
