"""Where a number comes from: without it, it must not be quoted. Nothing here imports torch."""

import os
import platform
import subprocess
from typing import Any

from pipeline.output.run_record import cpu_model, version_or_none


def origin(command: str, num_threads: int, seed: int, dtype: str) -> dict[str, Any]:
    """Return the fields that all rows of a run share."""
    return {
        "command": command,
        "commit": commit(),
        "hardware": hardware(num_threads),
        "versions": {name: version_or_none(name) for name in ("torch", "transformers", "ctranslate2")},
        "seed": seed,
        "dtype": dtype,
    }


def hardware(num_threads: int) -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": num_threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
    }


def commit() -> str | None:
    """Return the sources' commit, with a plus where files differ from it; None outside of a git checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
