"""The command line: each verb is `add_VERB(parser, argv)` and `run_VERB(args)`; here is what they share.

Only the verb that is asked for is imported, and what it needs of torch only when it runs: `nextpixel --help` answers at once.
Of the rest, nothing is imported before signals are handled.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nextpixel.cli import signals
from nextpixel.cli.messages import shortened
from nextpixel.errors import InputError, Notice


def main(argv: list[str] | None = None) -> int:
    """Run one verb; without `argv`, as the program that was called.

    What the user can mend is one line on stderr and status 2: bad input, a full disk, too little memory. Ctrl-C is status 130,
    and the other signals that end a program are 128 and their number. All else is a mistake of the library: a traceback.
    """
    program, argv = argv is None, sys.argv[1:] if argv is None else argv
    if program:
        signals.handle(argv[0] if argv else "")
        os.environ.setdefault(
            "TORCH_CPP_LOG_LEVEL", "ERROR"
        )  # read when torch is imported: no stack traces where a process is lost
    try:
        with _notices():
            return _main(argv)
    except InputError as error:
        return _say(f"error: {error}", 2)
    except BrokenPipeError:  # the reader of a pipe has left, as `| head` does
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        where = "" if error.filename is None else f"{error.filename}: "
        return _say(f"error: {where}{error.strerror or error}", 2)
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted", 128 + signals.number(error))
    except Exception as error:
        # An import that a signal has cut short may raise anything.
        if signals.received:
            return _say("interrupted", 128 + signals.number(error))
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            return _say(f"error: out of memory: {error}", 2)
        raise


def _main(argv: list[str]) -> int:
    from nextpixel.cli.parser import make_parser, spell_out_data

    argv = spell_out_data(argv)
    parser = make_parser(argv)
    if not argv:
        parser.print_help()
        return 2
    args = parser.parse_args(argv)
    if "json" in args[args.verb]:
        args[args.verb].command = shlex.join(["nextpixel", *argv])  # a measurement names the command that makes it again
    run(args)
    sys.stdout.flush()  # a full disk is reported here, not when the program has ended
    return 0


def run(args: Any) -> None:
    """Run the verb of parsed arguments."""
    from nextpixel.cli.parser import function_of

    function_of("run", args.verb)(args[args.verb])


def _say(text: str, status: int) -> int:
    with suppress(OSError):
        print(shortened(f"nextpixel: {text}"), file=sys.stderr)
    return status


def _drop_output() -> None:
    """Let what is left to print go nowhere: it would fail again at the end of the program."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _notices() -> Iterator[None]:
    """Print notices as lines of their own, without the place in the source that Python's warnings show."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, Notice):
                print(message, file=sys.stderr)
            else:
                show(message, category, *rest)

        warnings.showwarning = show_line
        warnings.simplefilter("always", Notice)
        yield
