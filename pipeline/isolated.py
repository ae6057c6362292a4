"""Decoding one image in a process of its own, for images that may take their process with them.

Slow (a new interpreter for each), so it is used only for chunks whose preprocessing has died before.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from pipeline.preprocess import ImageProblem, Pixels, image_to_pixels

_TIMEOUT_S = 120.0


def image_to_pixels_isolated(
    data: bytes,
    *,
    image_size: int,
    max_pixels: int,
    command: Sequence[str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Pixels | ImageProblem:
    """Like image_to_pixels, but a crash or a hang of the decoder is an ImageProblem too."""
    child = command or [sys.executable, "-m", "pipeline.isolated", str(image_size), str(max_pixels)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(child, input=data, capture_output=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return ImageProblem("decoder_hang", f"the decoder was stopped after {timeout_s:.0f} s ({len(data)} bytes)")
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return ImageProblem("decoder_crash", f"the decoder's process ended with {how} ({len(data)} bytes)")
    result: Pixels | ImageProblem = pickle.loads(done.stdout)  # written by our own code, a few lines below
    return result


def main(arguments: Sequence[str]) -> None:
    image_size, max_pixels = map(int, arguments)
    result = image_to_pixels(sys.stdin.buffer.read(), image_size=image_size, max_pixels=max_pixels)
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
