"""The one exception type that means "you, the user, can fix this"."""


class UserError(ValueError):
    """A mistake in configuration or input; the command line prints it as one sentence and exits so."""

    exit_code = 2
