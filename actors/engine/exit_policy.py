"""Logits at an exit -> the token it would emit and the confidence that decides whether it may.

Names as in CALM (arXiv 2207.07061, section 3.5). DEED's own formula was not available to us; `softmax_max` is our
reading.
"""

import torch
from torch import Tensor

from conf.errors import UserError
from conf.schema import Gate


def score(logits_BV: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """Return token ids [B] and confidences [B] in float32; the scores are what is left after processors."""
    logits_BV = logits_BV.float()
    if gate is Gate.SOFTMAX_MAX:
        top_B, token_B = logits_BV.max(-1)
        return token_B, (top_B - logits_BV.logsumexp(-1)).exp()
    if gate is Gate.SOFTMAX_DIFF:
        top_B2, token_B2 = logits_BV.topk(2, dim=-1)
        probability_B2 = (top_B2 - torch.logsumexp(logits_BV, -1, keepdim=True)).exp()
        return token_B2[:, 0], probability_B2[:, 0] - probability_B2[:, 1]
    raise UserError(f"engine.gate={gate.value} is not available, use softmax_max or softmax_diff")
