"""The one exception type that means "you, the user, can fix this"."""


class UserError(ValueError):
    """A mistake in configuration or input; the command line prints its message as one sentence and exits 2."""
