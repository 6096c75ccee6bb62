"""The one error a caller is meant to read: bad input, said in one line."""


class InputError(ValueError):
    """Bad input: names the file or argument, what was found, what was expected and what to do.

    The command line prints it as one line and exits with status 2.
    """
