"""The last line of defence: what nobody has foreseen costs one row, says so in it, and is logged once."""

import logging

from pipeline.text import storable

UNEXPECTED = "unexpected_error"
_MOST_CHARACTERS = 500  # of what an exception says
_LOG = logging.getLogger(__name__)
_seen: set[tuple[str, str]] = set()  # in this process


def describe_unexpected(step: str, error: Exception) -> str:
    """Return one line for the row's message. The first time in a process, the traceback goes to the log."""
    kind = type(error).__name__
    if (step, kind) not in _seen:
        _seen.add((step, kind))
        _LOG.warning("a row failed in %s, and others may; this is logged once", step, exc_info=error)
    return f"{step} raised {kind}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """Return what an exception says, short and storable."""
    return storable(" ".join(str(error).split())[:_MOST_CHARACTERS])
