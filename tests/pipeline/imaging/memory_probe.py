"""Peak memory of decoding, measured in a process of its own: a peak never comes down again.

Of /proc and not of getrusage, whose peak a process inherits from the one that started it.
"""

import subprocess
import sys

_CODE = """
import re, sys
from pathlib import Path
from pipeline.preprocess import Pixels, image_to_pixels
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
data = sys.stdin.buffer.read()
before = peak()
result = image_to_pixels(data, image_size=int(sys.argv[1]), **eval(sys.argv[2]))
print((peak() - before) * 1024, getattr(result, "error_type", "ok"))
"""


def peak_bytes(data: bytes, image_size: int = 32, **limits: int) -> int:
    """Bytes that decoding added to the process."""
    return outcome(data, image_size, **limits)[0]


def outcome(data: bytes, image_size: int = 32, **limits: int) -> tuple[int, str]:
    """(bytes that decoding added, "ok" or the problem's type)."""
    command = [sys.executable, "-c", _CODE, str(image_size), repr(limits)]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    peak, error_type = done.stdout.decode().split()
    return int(peak), error_type
