"""The one exception that means "what you gave cannot be used": the command line prints it as one line and exits with status 2."""


class InputError(ValueError):
    """Bad input: the message names what was given and what was expected, on one line.

    Everything else that is raised is a mistake of the library and keeps its traceback.
    """
