"""Attention by whatever way is fastest for its shape is attention."""

import pytest
import torch

from actors.model.blocks import attend, attend_shared

HEADS, WIDTH = 3, 8


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    """The formula, in doubles; q [B, T, H, E], mask bool."""
    q, k, v = (x.double() for x in (q, k, v))
    scores = torch.einsum("bthe,bshe->bhts", q, k) * scale
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", weights, v).flatten(2)


@pytest.mark.parametrize("num_queries", [1, 2, 7])
@pytest.mark.parametrize("num_keys", [1, 20, 128, 129, 300])
@pytest.mark.parametrize("learns", [False, True])
def test_attention_is_the_formula(num_queries: int, num_keys: int, learns: bool) -> None:
    torch.manual_seed(num_keys)
    q = torch.randn(4, num_queries, HEADS, WIDTH)
    cache = torch.randn(6, num_keys + 5, 2, HEADS, WIDTH)[:4, :num_keys]  # as the engine reads it: a view with gaps
    k, v = cache.unbind(2)
    mask = torch.rand(4, 1, num_queries, num_keys) < 0.7
    mask[..., 0] = True
    expected = exact(q, k, v, mask, 0.3)
    additive = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    with torch.set_grad_enabled(learns):
        for given in (mask, additive, additive.expand(-1, HEADS, -1, -1)):
            torch.testing.assert_close(attend(q, k, v, given, 0.3).double(), expected, rtol=0, atol=1e-5)
        unmasked = exact(q, k, v, torch.ones_like(mask), 0.3)
        torch.testing.assert_close(attend(q, k, v, None, 0.3).double(), unmasked, rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_query", [False, True])
def test_keys_that_are_values_too(per_query: bool) -> None:
    torch.manual_seed(0)
    q, keys = torch.randn(4, 6, WIDTH), torch.randn(4, 9, WIDTH)
    mask = torch.rand(4, 6 if per_query else 1, 9) < 0.7
    mask[..., 0] = True
    additive = torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    expected = exact(q[:, :, None], keys[:, :, None], keys[:, :, None], mask[:, None], 0.3)
    torch.testing.assert_close(attend_shared(q, keys, additive, 0.3).double(), expected, rtol=0, atol=1e-5)
