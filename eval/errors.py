"""The one error that evaluation raises for what its caller can mend."""


class UsageError(ValueError):
    """A wrong argument. The message is one line: the argument, what is wrong with it, and the remedy."""
