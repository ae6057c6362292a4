"""The OFA decoder against a plain reimplementation, and through the engine."""

import math

import pytest
import torch
from torch import Tensor

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.oracles.reference import encode_one, generate, teacher_forced
from actors.engine.request import Request
from actors.model.model import MultiExitModel
from conf.decoder import AbsoluteBias
from conf.engine import CrossAttention, Gate
from tests.actors.engine.tiny import VARIANTS, config, requests, run, tiny_model

LAYERS, HEADS, WIDTH = 3, 2, 16
OFA = {
    "norm": "layer", "norm_eps": 1e-5, "attn_bias": True, "ffn_bias": True, "positions": "none", "embed_norm": True,
    "attn_scale": (2 * WIDTH) ** -0.5, "sublayer_norm": True, "head_gains": True, "residual_gain": True,
    "absolute_bias": AbsoluteBias(max_context=13, num_distances=5),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "ofa", OFA)


def _model(seed: int) -> MultiExitModel:
    model = tiny_model("ofa", seed=seed, num_layers=LAYERS)
    for name, parameter in model.decoder.named_parameters():
        if parameter.dim() == 1 or "distances" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "gain" in name else 0.0, std=0.4)
    return model


def _layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[name + ".weight"] + weights[name + ".bias"]


def _linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gains: Tensor) -> Tensor:
    """One head after the other; bias [H, T, S]."""
    outputs = []
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        scores = q[:, part] @ k[:, part].T / math.sqrt(2 * WIDTH) + bias[head]
        outputs.append(scores.softmax(-1) @ v[:, part] * gains[head])
    return torch.cat(outputs, dim=-1)


def _position_scores(w: dict[str, Tensor], kind: str, queries: Tensor, keys: Tensor) -> Tensor:
    q, k = _linear(queries, w, f"absolute_bias.{kind}_query"), _linear(keys, w, f"absolute_bias.{kind}_key")
    heads = [slice(h * WIDTH, (h + 1) * WIDTH) for h in range(HEADS)]
    return torch.stack([q[:, part] @ k[:, part].T / math.sqrt(2 * WIDTH) for part in heads])


def _plain(model: MultiExitModel, inputs: list[int], states: Tensor) -> list[Tensor]:
    """Logits [T, V] after every layer of one sequence, from the weights and the formulas alone."""
    w, length = dict(model.decoder.state_dict()), len(inputs)
    outputs = _layer_norm(w["absolute_bias.outputs.weight"][:length], w, "absolute_bias.outputs_norm")
    context = _layer_norm(w["absolute_bias.inputs.weight"][: len(states)], w, "absolute_bias.inputs_norm")
    later = torch.full((length, length), float("-inf"), dtype=states.dtype).triu(1)
    shared = _position_scores(w, "self", outputs, outputs) + later
    cross_bias = _position_scores(w, "cross", outputs, context)
    x = _layer_norm(w["embedding.weight"][inputs], w, "embed_norm")
    logits = []
    for i in range(LAYERS):
        p = f"layers.{i}."
        table = w[f"absolute_bias.distances.{i}.weight"]
        own = torch.stack(
            [torch.stack([table[min(max(t - s, 0), 4)] for s in range(length)]) for t in range(length)]
        ).permute(2, 0, 1)
        q, k, v = _linear(_layer_norm(x, w, p + "self_norm"), w, p + "qkv").chunk(3, dim=-1)
        attended = _linear(_attention(q, k, v, shared + own, w[p + "self_gains"]), w, p + "self_out")
        x = x + _layer_norm(attended, w, p + "self_out_norm")
        q = _linear(_layer_norm(x, w, p + "cross_norm"), w, p + "query")
        k, v = _linear(states, w, p + "cross_kv_proj").chunk(2, dim=-1)
        attended = _linear(_attention(q, k, v, cross_bias, w[p + "cross_gains"]), w, p + "cross_out")
        x = x + _layer_norm(attended, w, p + "cross_out_norm")
        inner = _linear(_layer_norm(x, w, p + "ffn_norm"), w, p + "ffn.expand")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x * w[p + "residual_gain"] + _linear(_layer_norm(inner, w, p + "ffn.inner_norm"), w, p + "ffn.contract")
        adapted = x if i == LAYERS - 1 else x @ w[f"adapters.{i + 1}.weight"].T
        logits.append(_layer_norm(adapted, w, "final_norm") @ w["embedding.weight"].T)
    return logits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_the_plain_form_at_every_exit(seed: int) -> None:
    model = _model(seed)
    for request in requests(4, seed):
        inputs = [1, *range(5, 12)]
        states, mask = encode_one(model, request)
        hidden = teacher_forced(model, inputs, states, mask)
        for layer, wanted in enumerate(_plain(model, inputs, states[0]), start=1):
            mine = model.decoder.exit_logits(layer, hidden[layer - 1][0])
            torch.testing.assert_close(mine, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("cross", list(CrossAttention))
@pytest.mark.parametrize("num_slots", [1, 5])
def test_the_engine_equals_the_reference(cross: CrossAttention, num_slots: int) -> None:
    model, work = _model(3), requests(14, 1)
    thresholds = (0.12, 0.13)
    settings = config(exits=(1, 2, 3), thresholds=thresholds, cross=cross, num_slots=num_slots)
    done = run(Engine(model, settings), work, [0, 2, 1, 0, 5, 0, 0, 3, 1, 1, 0, 2, 0, 0])
    depths = set()
    for request in work:
        assert isinstance(request, Request)
        trace = generate(model, request, exit_layers=(1, 2, 3), thresholds=thresholds, gate=Gate.SOFTMAX_MAX,
                         max_new_tokens=min(16, request.max_new_tokens or 16))  # fmt: skip
        completion = done[request.request_id]
        assert completion.exit_layers == trace.exit_layers
        assert completion.token_ids == trace.step_ids[: len(completion.token_ids)]
        assert completion.confidences == pytest.approx(trace.confidences, abs=1e-6)
        depths |= set(trace.exit_layers)
    assert len(depths) >= 2


def test_beams_have_their_own_position_scores() -> None:
    model, work = _model(3), requests(5, 2)
    settings = config(schedule="full", thresholds=None, generation={"max_new_tokens": 8, "num_beams": 3})
    done = run(BeamEngine(model, settings), work, [0, 1, 0, 2, 0])
    for request in work:
        completion = done[request.request_id]
        said = [*completion.token_ids, model.config.eos_id][: len(completion.confidences)]
        hidden = teacher_forced(model, [model.config.start_id, *said[:-1]], *encode_one(model, request))
        probabilities = model.decoder.exit_logits(LAYERS, hidden[-1][0]).softmax(-1)
        expected = probabilities[torch.arange(len(said)), torch.tensor(said)].tolist()
        assert completion.confidences == pytest.approx(expected, abs=1e-5)
