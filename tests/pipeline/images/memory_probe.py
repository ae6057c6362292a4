"""Peak memory of decoding, measured in a process of its own: a peak never comes down again.

Of /proc and not of getrusage, whose peak a process inherits from the one that started it.
"""

import pickle
import subprocess
import sys
from collections.abc import Sequence

from conf.image_plan import ImagePlan

SMALL = ImagePlan.squeeze(32)
_CODE = """
import pickle, re, sys
from pathlib import Path
from pipeline.images.decode import image_to_pixels
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
files, options = pickle.load(sys.stdin.buffer)
before = peak()
results = [image_to_pixels(data, **options) for data in files]
outcomes = [getattr(result, "error_type", "ok") for result in results]
sys.stdout.buffer.write(pickle.dumps(((peak() - before) * 1024, outcomes)))
"""


def outcomes(files: Sequence[bytes], plan: ImagePlan = SMALL, **limits: int) -> tuple[int, list[str]]:
    """(bytes that decoding all of them added to the process, of each "ok" or the problem's type)."""
    task = pickle.dumps((list(files), {"plan": plan, **limits}))
    done = subprocess.run([sys.executable, "-c", _CODE], input=task, capture_output=True, check=True)
    result: tuple[int, list[str]] = pickle.loads(done.stdout)
    return result


def outcome(data: bytes, plan: ImagePlan = SMALL, **limits: int) -> tuple[int, str]:
    """The same of one file."""
    peak, (error_type,) = outcomes([data], plan, **limits)
    return peak, error_type


def peak_bytes(data: bytes, plan: ImagePlan = SMALL, **limits: int) -> int:
    """Bytes that decoding added to the process."""
    return outcome(data, plan, **limits)[0]
