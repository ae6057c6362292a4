"""Images that take their process with them: a time limit that no decoder can ignore, and decoding in another process.

The limit is the kernel's: when it is over, SIGALRM ends the process, whatever C code is running and whoever holds the
interpreter's lock. A chunk whose preprocessing has died before is decoded image by image in processes of their own
(slow, a new interpreter for each), which is how the image is found and becomes a row.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conf.image_plan import ImagePlan
from pipeline.images.decode import ImageProblem, Pixels, image_to_pixels

_START_S = 60.0  # most seconds in which an interpreter starts on a busy machine


def image_to_pixels_or_die(
    data: bytes, *, limit_s: float, plan: ImagePlan, texts: Sequence[str] = ("",), **limits: int
) -> Pixels | ImageProblem:
    """Like image_to_pixels, but a decoder that takes longer ends this process."""
    with _ends_after(limit_s):
        return image_to_pixels(data, plan=plan, texts=texts, **limits)


def image_to_pixels_isolated(
    data: bytes,
    *,
    limit_s: float,
    plan: ImagePlan,
    texts: Sequence[str] = ("",),
    command: Sequence[str] | None = None,
    **limits: int,
) -> Pixels | ImageProblem:
    """Like image_to_pixels, but a crash or a hang of the decoder is an ImageProblem too."""
    child = command or [sys.executable, "-m", "pipeline.images.decode_isolated"]
    asked = pickle.dumps({"data": data, "limit_s": limit_s, "plan": plan, "texts": list(texts), **limits})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    hang = ImageProblem("decoder_hang", f"the decoder was stopped after {limit_s:g} s ({len(data)} bytes)")
    try:
        done = subprocess.run(
            child, input=asked, capture_output=True, timeout=_START_S + limit_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return hang
    if done.returncode == -signal.SIGALRM:
        return hang
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return ImageProblem("decoder_crash", f"the decoder's process ended with {how} ({len(data)} bytes)")
    result: Pixels | ImageProblem = pickle.loads(done.stdout)  # written by our own code, a few lines below
    return result


@contextmanager
def _ends_after(limit_s: float) -> Iterator[None]:
    """SIGALRM has no handler in our processes, so it ends them. A timer that somebody else has set goes on after."""
    before = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def main() -> None:
    sys.stdout.buffer.write(pickle.dumps(image_to_pixels_or_die(**pickle.load(sys.stdin.buffer))))


if __name__ == "__main__":
    main()
