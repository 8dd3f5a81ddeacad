"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """What the user gave can't be used: one line saying what was expected, what was found and what to do.

    Every stage prints it as a single line and exits with code 2; no traceback is shown. Only a list of problems,
    such as the bad rows of a file, has a line for each.
    """


class BusyError(UserError):
    """Another process is at the same run, whose folder is left as it is."""
