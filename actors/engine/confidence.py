"""What an exit says -> the token it would emit and the confidence that decides whether it may.

Names as in CALM (arXiv 2207.07061, section 3.5). DEED's own formula was not available to us; `softmax_max` is our
reading. `shortlist` is ours: the first exit scores the whole vocabulary once per token, later exits only the
candidates it left, and full depth the whole vocabulary again, so that what goes all the way is exact.

Shape suffixes: B rows, D width, V vocabulary, K candidates, X blocks of Y tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from conf.engine import Gate
from conf.errors import UserError

SHORTLIST_SIZE = 32
_LARGE, _BLOCK = 2**14, 64  # tokens from which the likeliest are sought block by block, and in one block


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Candidates of a token, and the log of the unnormalised mass the first exit saw outside of them."""

    ids_BK: Tensor
    rest_B: Tensor

    @classmethod
    def take(cls, logits_BV: Tensor) -> tuple["Shortlist", Tensor]:
        """Return the likeliest candidates of the first exit, with their logits [B, K]; overwrites the others."""
        logits_BV = logits_BV.float()
        top_BK, ids_BK = largest(logits_BV, min(SHORTLIST_SIZE, logits_BV.shape[-1]))
        rest_B = logits_BV.scatter_(-1, ids_BK, float("-inf")).logsumexp(-1)
        return cls(ids_BK, rest_B), top_BK

    def score(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids [B] and confidences [B] from the logits of the candidates at a later exit."""
        logits_BK = logits_BK.float()
        top_B, place_B = logits_BK.max(-1)
        token_B = self.ids_BK.gather(-1, place_B[:, None])[:, 0]
        return token_B, (top_B - torch.logaddexp(logits_BK.logsumexp(-1), self.rest_B)).exp()


def largest(logits_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest logits and their ids, both [B, K], the largest first.

    They lie in as many blocks, those of the largest maxima; one pass for maxima is several times as fast as sorting.
    """
    num_rows, size = logits_BV.shape
    whole = size // _BLOCK * _BLOCK
    if size < _LARGE or count * _BLOCK > whole:
        top = logits_BV.topk(count, dim=-1)
        return top.values, top.indices
    block_BK = logits_BV[:, :whole].view(num_rows, -1, _BLOCK).amax(-1).topk(count, dim=-1).indices
    in_block_Y = torch.arange(_BLOCK, device=logits_BV.device)
    left_over = torch.arange(whole, size, device=logits_BV.device).expand(num_rows, -1)
    ids_BX = torch.cat([(block_BK[..., None] * _BLOCK + in_block_Y).flatten(1), left_over], dim=1)
    top = logits_BV.gather(1, ids_BX).topk(count, dim=-1)
    return top.values, ids_BX.gather(1, top.indices)


def needs_tokens(gate: Gate) -> bool:
    """Return whether the confidence comes from token scores; otherwise the head runs for the rows that leave alone."""
    return gate not in (Gate.SATURATION, Gate.CLASSIFIER)


def score(logits_BV: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """Return token ids [B] and confidences [B] in float32; the scores are what is left after processors."""
    logits_BV = logits_BV.float()
    if gate is Gate.SOFTMAX_DIFF:
        top_B2, token_B2 = logits_BV.topk(2, dim=-1)
        probability_B2 = (top_B2 - torch.logsumexp(logits_BV, -1, keepdim=True)).exp()
        return token_B2[:, 0], probability_B2[:, 0] - probability_B2[:, 1]
    if gate in (Gate.SOFTMAX_MAX, Gate.SHORTLIST):
        token_B = logits_BV.argmax(-1)
        return token_B, logits_BV.softmax(-1).gather(-1, token_B[:, None])[:, 0]
    raise UserError(
        f"engine.gate={gate.value} is not available, use softmax_max, softmax_diff, saturation or shortlist"
    )


def saturation(h_BD: Tensor, before_BD: Tensor) -> Tensor:
    """Return how little the exit's layer changed its input: cosine similarity [B]."""
    return F.cosine_similarity(h_BD.float(), before_BD.float(), dim=-1)
