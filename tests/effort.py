"""How much is tried: enough to notice a fault in minutes; with LONG_TESTS=1 (`make test-long`) far more."""

import os
from typing import TypeVar

T = TypeVar("T")
LONG = os.environ.get("LONG_TESTS") == "1"


def effort(usual: T, long: T) -> T:
    return long if LONG else usual
