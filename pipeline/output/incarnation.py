"""Which beginning of an output this is: workers of a run that was overwritten must not write into its successor.

A killed driver's workers may live on for a while and commit what they had begun. In a run that continues the output
that is welcome. When the output is begun anew, it gets another incarnation; chunks are staged below its name, where
those of an older one are never looked for.
"""

import uuid

from conf.errors import OutputLost
from pipeline.output.storage import Storage

INCARNATION_NAME = "_state/generation"


class Superseded(OutputLost):
    """The output was begun anew, or deleted, since; nothing of this incarnation may be published."""


def current(storage: Storage) -> Storage:
    """Return the storage with the incarnation of the output there; "" if no run was begun."""
    return storage.of_incarnation(_read(storage))


def renew(storage: Storage) -> Storage:
    """Begin a new incarnation: from here on no worker of an older one publishes anything."""
    incarnation = uuid.uuid4().hex[:8]
    storage.write(INCARNATION_NAME, incarnation.encode())
    return storage.of_incarnation(incarnation)


def check(storage: Storage) -> None:
    """Raise Superseded if this is no longer the output's incarnation."""
    now = _read(storage)
    if not now and storage.incarnation:
        raise Superseded(
            f"{storage.url!r} was deleted while this run wrote into it; this one has stopped, and what it had "
            "committed is lost: the same command begins anew"
        )
    if now != storage.incarnation:
        raise Superseded(
            f"another run has begun {storage.url!r} anew; this one has stopped and writes nothing more, and what it "
            "had committed is given up"
        )


def _read(storage: Storage) -> str:
    try:
        return storage.read(INCARNATION_NAME).decode()
    except FileNotFoundError:
        return ""
