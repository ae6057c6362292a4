"""How sure a number from a sample is."""

import math


def wilson_interval(successes: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval that holds the true share with 95 % confidence (z = 1.96); (0, 1) for an empty sample.

    `successes` may be the sum of numbers in [0, 1]: they vary no more than zeros and ones with the same mean.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, z * z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)
