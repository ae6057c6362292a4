"""Where the gradient of an exit's logits goes."""

import pytest
import torch

from actors.model.decoder import MultiExitDecoder
from conf.decoder import DecoderConfig
from tests.actors.engine.tiny import VARIANTS, tiny_model

H = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", [*VARIANTS, "merged"])
def test_without_a_head_gradient_all_but_the_head_learns(variant: str) -> None:
    decoder = tiny_model(variant, dtype=torch.float32).requires_grad_(True).decoder
    h = H.clone().requires_grad_(True)
    plain, stopped = decoder.exit_logits(2, h), decoder.exit_logits(2, h, head_gradient=False)
    assert torch.equal(plain, stopped)
    plain.square().mean().backward()
    expected = {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}
    expected_h = h.grad.clone()
    of_the_head = {"embedding.weight"} if decoder.config.head_tied else {"head.weight"}
    of_the_head |= {"head.bias"} if decoder.config.head_bias else set()
    assert of_the_head < expected.keys()
    decoder.zero_grad(set_to_none=True)
    h.grad = None
    stopped.square().mean().backward()
    got = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys() - of_the_head
    assert "adapters.2.weight" in got
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert torch.equal(h.grad, expected_h)


def test_a_head_of_an_exits_own_always_learns() -> None:
    settings = {"num_layers": 3, "d_model": 32, "num_heads": 2, "d_head": 16, "d_ff": 48, "d_cross": 32,
                "vocab_size": 40, "max_positions": 24}  # fmt: skip
    decoder = MultiExitDecoder(DecoderConfig(**settings), (1, 2, 3), adapters=False, separate_heads=True)
    decoder.exit_logits(2, H, head_gradient=False).square().mean().backward()
    assert decoder.own_heads["2"].weight.grad is not None
    assert decoder.head.weight.grad is None
