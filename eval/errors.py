"""What evaluation raises for its caller, one line each: an argument to mend, or an answer that is no."""


class UsageError(ValueError):
    """A wrong argument. The message is one line: the argument, what is wrong with it, and the remedy."""


class NothingQualifiesError(Exception):
    """The work was done and nothing meets the demand. The message is one line: what was seen, the remedy."""
