"""The errors that a user can mend: shown as a line, not as a traceback."""


class UserError(Exception):
    """Says what was expected, what was got, where, and what to do."""


class MachineError(UserError):
    """An error of a machine, its files or its packages: where these are mended, the same settings may work."""


class ResourcesError(UserError):
    """Resources that a study cannot be run with, as it asks: its trials are the same with others."""
