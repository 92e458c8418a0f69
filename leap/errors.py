"""What evaluation raises for its caller, one line each: a wrong argument, or a negative result."""


class UsageError(ValueError):
    """A wrong argument. The message is one line: the argument, what is wrong with it, and the remedy."""


class NothingQualifiesError(Exception):
    """The work was done and nothing meets the demand. The message is one line: what was seen, the remedy."""


def first_line(error: Exception) -> str:
    """The first line of another library's error, for a message of one line; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
