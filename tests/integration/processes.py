"""Trees of processes, found and ended whole."""

import os
import signal
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Every descendant of a process that is alive now."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        direct = parents.get(todo.pop(), [])
        found += direct
        todo += direct
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all its descendants at once, as when a machine goes away."""
    for one in [pid, *children_of(pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
