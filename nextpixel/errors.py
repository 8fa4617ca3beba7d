"""What the user is told: that what was given cannot be used, and what else to know about a result."""

import signal


class InputError(ValueError):
    """Bad input: the message names what was given and what was expected, on one line.

    The command line prints it and exits with status 2.
    Everything else that is raised is a mistake of the library and keeps its traceback.
    """


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; the message is one line, and the command line's status 128 + `number`."""

    def __init__(self, message: str = "interrupted", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)


class Notice(UserWarning):
    """What to know about a result that is as good as it can be; the command line prints the line alone."""
