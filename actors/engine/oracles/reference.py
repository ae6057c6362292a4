"""The slow truth: one sequence, no caches, no scheduling.

Every step runs the whole decoder over the whole prefix, so what a token attends to at a layer is by construction a
feature of that layer (DEED's just-in-time rule), and the step leaves at the first exit that is sure enough. The
engine must give these tokens and depths for any slots, arrival order and schedule that never holds rows back.
"""

import math
from dataclasses import dataclass

import torch

from actors.engine.confidence import Shortlist, saturation, score
from actors.engine.loops import LoopRule
from actors.engine.processors import Past, Processors
from actors.engine.request import FinishReason, Request
from actors.model.model import MultiExitModel
from conf.engine import Gate
from conf.resolve import Decay, threshold_at


@dataclass(frozen=True)
class Trace:
    """One entry per decoding step; the end token is included in `step_ids`."""

    step_ids: tuple[int, ...]
    exit_layers: tuple[int, ...]
    confidences: tuple[float, ...]
    finish_reason: FinishReason


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
    processors: Processors | None = None,
    decay: Decay | None = None,
    loop: LoopRule | None = None,
    prefix_ids: tuple[int, ...] = (),
) -> Trace:
    """Decode one request greedily with step-level early exit; `prefix_ids` where the request brings no prefix."""
    processors = processors or Processors(model.config.end_ids, min_new_tokens)
    states, mask = encode_one(model, request)
    inputs = given_ids(model, request, prefix_ids)
    num_given, reason = len(inputs), FinishReason.LENGTH
    steps: list[tuple[int, int, float]] = []
    while len(steps) < max_new_tokens:
        said = verdicts(
            model, inputs, states, mask,
            exit_layers=exit_layers, gate=gate, processors=processors, num_given=num_given,
        )  # fmt: skip
        now = [
            (exit_layer, tokens[-1], confidences[-1])
            for exit_layer, (tokens, confidences) in zip(exit_layers, said, strict=True)
        ]
        shut = math.inf if request.full_depth else None
        needed = [shut or threshold_at(threshold, len(steps), decay) for threshold in thresholds]
        sure = [confidence >= threshold for (_, _, confidence), threshold in zip(now, needed, strict=False)]
        exit_layer, token_id, confidence = now[[*sure, True].index(True)]
        steps.append((token_id, exit_layer, confidence))
        if steps[-1][0] in model.config.end_ids:
            reason = FinishReason.EOS
            break
        inputs.append(steps[-1][0])
        if loop is not None and loop.loops(inputs[num_given:]):
            reason = FinishReason.LOOP
            break
    ids, layers, confidences = zip(*steps, strict=True)
    return Trace(ids, layers, confidences, reason)


def given_ids(model: MultiExitModel, request: Request, prefix_ids: tuple[int, ...]) -> list[int]:
    """Return the decoder inputs before the first step."""
    return list(model.config.given_ids(prefix_ids if request.prefix_ids is None else request.prefix_ids))


def verdicts(
    model: MultiExitModel, inputs: list[int], states: torch.Tensor, mask: torch.Tensor, *,
    exit_layers: tuple[int, ...], gate: Gate, processors: Processors, num_given: int = 1,
) -> list[tuple[list[int], list[float]]]:  # fmt: skip
    """Return what each exit would emit at every position of `inputs`, and how sure it is: (tokens, confidences)."""
    hidden = teacher_forced(model, inputs, states, mask)
    positions = torch.arange(len(inputs), device=states.device)
    before = [model.decoder.embed(torch.tensor(inputs, device=states.device), positions), *(h[0] for h in hidden)]
    shortlist: Shortlist | None = None
    said: list[tuple[list[int], list[float]]] = []
    for exit_layer in exit_layers:
        h_TD = hidden[exit_layer - 1][0]
        logits_TV = model.decoder.exit_logits(exit_layer, h_TD).clone()
        prefixes = [inputs[: step + 1] for step in range(len(inputs))]
        processors.apply(logits_TV, Past.of(prefixes, num_given, logits_TV.device))
        if gate is Gate.SATURATION:
            token_T, confidence_T = logits_TV.argmax(-1), saturation(h_TD, before[exit_layer - 1])
        elif gate is Gate.CLASSIFIER:
            last = exit_layer == exit_layers[-1]
            odds_T = h_TD.new_full((len(inputs),), float("inf")) if last else model.decoder.gate_logit(exit_layer, h_TD)
            token_T, confidence_T = logits_TV.argmax(-1), odds_T.sigmoid()
        elif shortlist is not None and exit_layer != exit_layers[-1]:
            token_T, confidence_T = shortlist.score(logits_TV.gather(-1, shortlist.ids_BK))
        else:
            token_T, confidence_T = score(logits_TV, gate)
            shortlist = Shortlist.take(logits_TV)[0] if gate is Gate.SHORTLIST else None
        said.append((token_T.tolist(), confidence_T.tolist()))
    return said


def encode_one(model: MultiExitModel, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """Return encoder states [1, C, D] and mask [1, C] of one request."""
    device = model.decoder.embedding.weight.device
    prompt = torch.tensor([request.prompt_ids], device=device)
    pixels = torch.from_numpy(request.pixels_HWC.copy())[None].to(device)
    return model.encode(pixels, prompt, torch.ones_like(prompt, dtype=torch.bool))


def teacher_forced(
    model: MultiExitModel, inputs: list[int], states: torch.Tensor, mask: torch.Tensor
) -> list[torch.Tensor]:
    """Return hidden states [1, T, D] after every layer for the given decoder inputs."""
    token_ids = torch.tensor([inputs], device=states.device)
    length = len(inputs)
    positions = torch.arange(length, device=states.device)[None]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool, device=states.device).tril()
    hidden: list[torch.Tensor] = model.decoder(token_ids, positions, states, causal, mask[:, None, None, :])
    return hidden
