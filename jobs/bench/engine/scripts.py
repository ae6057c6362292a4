"""Scripted exit depths: what two corpora of the same mean depth would do to a batch, whatever the weights say.

`independent`: every token draws its depth. `clustered`: the very same depths, dealt out again so that hard tokens are
in hard sequences. So the mean is equal to the last digit, and only just-in-time features, which need the deepest of
what follows, and the make-up of batches differ.
"""

import random
from collections.abc import Sequence

from conf.bench import Distribution

# How far a token's rank may stray from its sequence's: 0 sorts all tokens by sequence, 1 hardly differs from chance.
CLUSTER_NOISE = 0.15

Depths = list[list[int]]  # per sequence, per token: index of the exit it leaves at


def depth_shares(exit_layers: Sequence[int], mean_share: float) -> list[float]:
    """Share of tokens that leave at each exit: falling by one factor from exit to exit, and of the wanted mean.

    ValueError where no such shares exist: the mean must lie between the first exit and the plain average of all.
    """
    wanted = mean_share * exit_layers[-1]
    if not exit_layers[0] < wanted <= sum(exit_layers) / len(exit_layers):
        raise ValueError(f"a mean depth of {wanted:g} layers does not fit exits {list(exit_layers)}")
    low, high = 0.0, 1.0
    for _ in range(60):
        factor = (low + high) / 2
        shares = _shares(len(exit_layers), factor)
        if sum(share * layer for share, layer in zip(shares, exit_layers, strict=True)) < wanted:
            low = factor
        else:
            high = factor
    return shares


def _shares(count: int, factor: float) -> list[float]:
    powers = [factor**i for i in range(count)]
    return [power / sum(powers) for power in powers]


def script_depths(
    distribution: Distribution, exit_layers: Sequence[int], *,
    num_sequences: int, num_tokens: int, mean_share: float, seed: int,
) -> Depths:  # fmt: skip
    """Return the exit index of every token of every sequence; OWN has no script."""
    assert distribution is not Distribution.OWN
    rng = random.Random(seed)
    total = num_sequences * num_tokens
    drawn = _rounded(depth_shares(exit_layers, mean_share), total)
    if distribution is Distribution.INDEPENDENT:
        rng.shuffle(drawn)
        return [drawn[i * num_tokens : (i + 1) * num_tokens] for i in range(num_sequences)]
    hardness = [(i + 0.5) / num_sequences for i in range(num_sequences)]
    rng.shuffle(hardness)
    ranks = sorted(
        ((hard + rng.uniform(-CLUSTER_NOISE, CLUSTER_NOISE), sequence, token)
         for sequence, hard in enumerate(hardness) for token in range(num_tokens))
    )  # fmt: skip
    depths = [[0] * num_tokens for _ in range(num_sequences)]
    for exit_index, (_, sequence, token) in zip(sorted(drawn), ranks, strict=True):
        depths[sequence][token] = exit_index
    return depths


def _rounded(shares: Sequence[float], total: int) -> list[int]:
    """Return exit indices in these shares, `total` of them, rounded by largest remainder; not in random order yet."""
    exact = [share * total for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return [index for index, count in enumerate(counts) for _ in range(count)]
