"""`python -m tests`: all tests, those with a real Ray beside those without, which wait for different things.

Ray's tests wait for processes to start, die and be missed; the others compute. Each half is a plain `pytest`, so that
`pytest` alone runs the same tests one after the other. Arguments go to both.
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_NO_TESTS = 5  # pytest's exit code where arguments choose none of a half's


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs beside is ended too
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen([*pytest, "tests/integration"], cwd=_ROOT, stdout=said, stderr=subprocess.STDOUT)
        try:
            here = subprocess.run([*pytest, "--ignore=tests/integration"], cwd=_ROOT, check=False).returncode
            there = beside.wait()
        finally:
            beside.terminate()
            beside.wait()
        said.seek(0)
        print("\nwith a real Ray:\n", flush=True)
        sys.stdout.buffer.write(said.read())
    failed = [code for code in (here, there) if code not in (0, _NO_TESTS)]  # below zero: ended by a signal
    return 1 if failed else min(here, there)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
