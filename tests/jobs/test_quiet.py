"""Only the known noise is kept off the terminal; all else arrives, whole and in order."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
from jobs.shared.quiet import without_ray_noise
print("before", file=sys.stderr)
with without_ray_noise() as terminal:
    print("python", file=sys.stderr)
    os.write(2, b"[E 1 1] core_worker.cc: X has constructor arguments in the object store and max_restarts > 0. !\\n")
    os.write(2, b"a child's line\\n")
    print("live", file=terminal, flush=True)
    os.system("echo from a child >&2; sleep 30 &")  # the sleeper keeps the pipe open
    os.write(2, b"no newline at the end")
print("\\nafter", file=sys.stderr)
"""


def test_only_the_known_noise_is_dropped() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True, timeout=20
    )
    lines = result.stderr.splitlines()
    assert sorted(lines) == sorted(
        ["before", "python", "a child's line", "live", "from a child", "no newline at the end", "after"]
    )
    assert [line for line in lines if line != "live"][-2:] == ["no newline at the end", "after"]
