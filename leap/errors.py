"""What evaluation raises for its caller, one line each: an argument to mend, or an answer that is no."""


class UsageError(ValueError):
    """A wrong argument. The message is one line: the argument, what is wrong with it, and the remedy."""


class NothingQualifiesError(Exception):
    """The work was done and nothing meets the demand. The message is one line: what was seen, the remedy."""


def first_line(error: Exception) -> str:
    """What another library's error says first, to go into a message of one line; its type if it is silent."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
