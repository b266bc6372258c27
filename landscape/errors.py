"""The one error for input that cannot be used; the command line turns it into a sentence and exit code 2."""


class InputError(ValueError):
    """Says in one sentence what was wrong, what was expected, what came, and what to do."""


def told(error: Exception) -> str:
    """An error of the user's own code in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
