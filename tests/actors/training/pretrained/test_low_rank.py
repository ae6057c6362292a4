"""Low-rank updates: nothing changes until they move, and merging them changes nothing either."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from actors.model.checkpoint import load_checkpoint, save_checkpoint
from actors.model.encoders import tied_names
from actors.model.model import MultiExitModel
from actors.model.tokenizer import load_tokenizer
from actors.training import state
from actors.training.pretrained.low_rank import add_low_rank, merged_state_dict
from actors.training.pretrained.run_layer import make_run_layer
from tests.actors.engine.tiny import VARIANTS
from tests.actors.training.pretrained.batches import batch_for, converted, trainable

EVERY = [*VARIANTS, "merged"]


def _logits(model: MultiExitModel) -> Tensor:
    hidden = model(batch_for(model))
    return torch.stack([model.decoder.exit_logits(layer, hidden[layer - 1]) for layer in model.config.exits])


def _both(model: MultiExitModel, *, rank: int = 2, seed: int = 0) -> list[nn.Parameter]:
    """Updates of the decoder's layers and of the whole encoder."""
    return [
        *add_low_rank(model.decoder.layers, rank, 4.0, seed),
        *add_low_rank(model.encoder, rank, 4.0, seed + 1),
    ]


def _move(factors: list[nn.Parameter], seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in factors:
            factor += 0.1 * torch.randn(factor.shape, generator=generator)


def _rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-5))


def _check(model: MultiExitModel, plain: MultiExitModel) -> None:
    for each in (model, plain):  # torch chooses the order of some products by whether their matrix learns
        each.requires_grad_(False)
    with torch.no_grad():
        before = _logits(model)
        factors = _both(model)
        assert torch.equal(_logits(model), before)
        _move(factors)
        after = _logits(model)
        assert float((after - before).abs().max()) > 1e-2
        merged = merged_state_dict(model)
        assert merged.keys() == plain.state_dict().keys()
        plain.load_state_dict(merged)
        torch.testing.assert_close(_logits(plain), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", EVERY)
def test_bit_equal_at_the_start_and_merged_in_the_end(variant: str) -> None:
    _check(trainable(variant), trainable(variant, seed=9))


@pytest.mark.parametrize("kind", ["t5gemma2", "florence2", "blip_vqa", "deit_bart"])
def test_the_same_for_encoders_of_the_library(kind: str, tmp_path: Path) -> None:
    model = converted(kind, tmp_path)
    plain = load_checkpoint(tmp_path / "ours").model
    _check(model, plain)
    tokenizer = load_tokenizer(tmp_path / "ours" / "tokenizer.json")
    save_checkpoint(tmp_path / "merged", model.config, merged_state_dict(model), tokenizer, torch.float32)
    assert torch.equal(_logits(load_checkpoint(tmp_path / "merged").model), _logits(plain))


@pytest.mark.parametrize("variant", EVERY)
def test_every_part_of_a_fused_matrix_has_the_rank(variant: str) -> None:
    model = trainable(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _move(add_low_rank(model.decoder.layers, 2, 4.0, seed=0))
    parts = {"qkv": 3, "cross_kv_proj": 2, "kv": 2, "expand": 2 if "gated" in model.config.decoder.ffn else 1}
    seen = set()
    for name, tensor in merged_state_dict(model).items():
        module = name.split(".")[-2]
        if not name.startswith("decoder.layers.") or tensor.dim() != 2:
            assert torch.equal(tensor, before[name])
            continue
        update, count = tensor - before[name], parts.get(module, 1)
        assert [_rank(part) for part in update.chunk(count)] == [2] * count, name
        assert _rank(update) == 2 * count, name
        seen.add(module)
    assert {"contract", "query", "expand"} < seen
    assert ({"kv"} if variant == "merged" else {"qkv", "cross_kv_proj"}) < seen


def test_only_factors_learn_and_checkpointed_layers_teach_them_the_same() -> None:
    model = trainable("wide_heads").requires_grad_(False)
    factors = add_low_rank(model.decoder.layers, 2, 4.0, seed=0)
    _move(factors)
    both = []
    for run_layer in (None, make_run_layer(5, dropout=0.0, checkpointing=True, generator=None)):
        model.zero_grad(set_to_none=True)
        model(batch_for(model), run_layer=run_layer)[-1].square().mean().backward()
        both.append([factor.grad for factor in factors])
        learned = [p for p in model.parameters() if p.grad is not None]
        assert {id(p) for p in learned} == {id(factor) for factor in factors}
    assert all(torch.equal(a, b) and float(a.abs().max()) > 0 for a, b in zip(*both, strict=True))


def test_matrices_are_frozen_and_the_rest_is_left_to_the_caller() -> None:
    model = trainable("post_layer")
    factors = add_low_rank(model.decoder.layers, 2, 4.0, seed=0)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith("decoder.layers.") and name.endswith(".weight.original") for name in frozen)
    assert all(factor.requires_grad for factor in factors)
    assert model.decoder.head.weight is model.decoder.embedding.weight


def test_the_decoder_as_a_whole_is_refused() -> None:
    model = trainable("pre_rms")
    for module in (model, model.decoder):
        with pytest.raises(AssertionError, match="layers"):
            add_low_rank(module, 2, 4.0, seed=0)


def test_alpha_over_rank_scales_the_update() -> None:
    updates = []
    for alpha in (2.0, 6.0):
        linear = nn.Linear(8, 6).requires_grad_(False)
        before = linear.weight.clone()
        a, b = add_low_rank(nn.Sequential(linear), 2, alpha, seed=0)
        assert a.shape == (1, 2, 8)
        with torch.no_grad():
            b.copy_(torch.ones(1, 6, 2))
        updates.append(linear.weight - before)
        torch.testing.assert_close(updates[-1], alpha / 2 * (b @ a)[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(updates[1], 3 * updates[0], atol=1e-6, rtol=1e-5)


def test_the_seed_says_what_is_drawn() -> None:
    first, same, other = (_both(trainable("pre_rms"), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])


def test_autocast_does_not_round_the_update() -> None:
    model = trainable("pre_rms")
    _move(add_low_rank(model.decoder.layers, 2, 4.0, seed=0))
    layer = model.decoder.layers[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer.qkv.weight
    assert torch.equal(inside, layer.qkv.weight)


def test_a_saved_state_is_taken_up_again(tmp_path: Path) -> None:
    def begin(seed: int) -> tuple[MultiExitModel, torch.optim.Optimizer, dict[int, str]]:
        model = trainable("relative").requires_grad_(False)
        optimizer = torch.optim.AdamW(_both(model, seed=seed), lr=1e-2)
        return model, optimizer, {id(p): name for name, p in model.named_parameters()}

    def step(model: MultiExitModel, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        _logits(model).square().mean().backward()
        optimizer.step()

    model, optimizer, names = begin(seed=0)
    step(model, optimizer)
    ties = tied_names(model.config)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    state.save(tmp_path, tensors, [optimizer], names, {"step": 1})
    step(model, optimizer)
    again, its_optimizer, its_names = begin(seed=3)
    saved = state.load(tmp_path, [its_optimizer], its_names, torch.device("cpu"))
    assert saved is not None
    again.load_state_dict(saved[1], strict=False)
    step(again, its_optimizer)
    wanted, got = merged_state_dict(model), merged_state_dict(again)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
