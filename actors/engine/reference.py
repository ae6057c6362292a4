"""The slow truth: one sequence, no caches, no scheduling.

Every step runs the whole decoder over the whole prefix, so what a token attends to at a layer is by construction a
feature of that layer (DEED's just-in-time rule), and the step leaves at the first exit that is sure enough. The
engine must give these tokens and depths for any slots, arrival order and schedule that never holds rows back.
"""

from dataclasses import dataclass

import torch

from actors.engine.exit_policy import score
from actors.engine.request import Request
from actors.model.model import MultiExitModel
from conf.schema import Gate


@dataclass(frozen=True)
class Trace:
    """One entry per decoding step; the end token is included in `step_ids`."""

    step_ids: tuple[int, ...]
    exit_layers: tuple[int, ...]
    confidences: tuple[float, ...]


@torch.inference_mode()
def generate(
    model: MultiExitModel,
    request: Request,
    *,
    exit_layers: tuple[int, ...],
    thresholds: tuple[float, ...],
    gate: Gate,
    max_new_tokens: int,
    min_new_tokens: int = 0,
) -> Trace:
    """Decode one request greedily with step-level early exit."""
    states, mask = encode_one(model, request)
    inputs = [model.config.start_id]
    steps: list[tuple[int, int, float]] = []
    while len(steps) < max_new_tokens:
        hidden = teacher_forced(model, inputs, states, mask)
        for exit_layer, threshold in zip(exit_layers, (*thresholds, 0.0), strict=True):
            logits_V = model.decoder.exit_logits(exit_layer, hidden[exit_layer - 1][0, -1]).clone()
            if len(steps) < min_new_tokens:
                logits_V[model.config.eos_id] = float("-inf")
            token_B, confidence_B = score(logits_V[None], gate)
            if exit_layer == exit_layers[-1] or float(confidence_B) >= threshold:
                break
        steps.append((int(token_B), exit_layer, float(confidence_B)))
        if steps[-1][0] == model.config.eos_id:
            break
        inputs.append(steps[-1][0])
    ids, layers, confidences = zip(*steps, strict=True)
    return Trace(ids, layers, confidences)


def encode_one(model: MultiExitModel, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states [1, C, D] and mask [1, C] of one request."""
    device = model.decoder.embedding.weight.device
    prompt = torch.tensor([request.prompt_ids], device=device)
    pixels = torch.from_numpy(request.pixels_HWC.copy())[None].to(device)
    return model.encode(pixels, prompt, torch.ones_like(prompt, dtype=torch.bool))


def teacher_forced(
    model: MultiExitModel, inputs: list[int], states: torch.Tensor, mask: torch.Tensor
) -> list[torch.Tensor]:
    """Hidden states [1, T, D] after every layer for the given decoder inputs."""
    token_ids = torch.tensor([inputs], device=states.device)
    length = len(inputs)
    positions = torch.arange(length, device=states.device)[None]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=states.device).tril()
    hidden: list[torch.Tensor] = model.decoder(token_ids, positions, states, causal, mask[:, None, None, :])
    return hidden
