"""Ends of a command that one sentence explains; everything else is a programmer's mistake and shows a traceback."""


class Explained(Exception):
    """The command line prints it as one sentence, without a traceback, and ends with its exit code."""

    exit_code = 1


class UserError(Explained, ValueError):
    """A mistake in configuration or input."""

    exit_code = 2


class OtherOutput(UserError):
    """The output was begun with something else; `why` says with what, the whole sentence what deed caption's user can
    do."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; choose another output.path or set output.on_existing=overwrite")
        self.why = why


class SourceAway(Explained):
    """The source cannot be read now, and what is left to do cannot be told without it; the same command continues."""


class ClusterAway(Explained):
    """Ray does not start, or its cluster cannot be joined; nothing was written, and the command may be tried again."""


class OutputFailed(Explained):
    """The output's storage takes no more: full, over quota, read-only, or away for too long."""

    exit_code = 5


class OutputLost(Explained):
    """Another run has the output now; this one must write nothing more into it."""

    exit_code = 6


class PromiseBroken(Explained):
    """The audit has found that early exit changes more than was promised, and the run was told to stop then."""

    exit_code = 9
