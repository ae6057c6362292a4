"""A checkpoint and full depth's texts -> how sure every gate is of every token at every exit.

Shape suffixes: N tokens, E exits (the last is full depth), B images, T positions, D width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from actors.engine.confidence import saturation, score
from actors.model.model import MultiExitModel, PackedBatch
from actors.training.thresholds import Recording
from conf.engine import Gate

_COMPARED = (Gate.SOFTMAX_MAX, Gate.SOFTMAX_DIFF, Gate.SATURATION)  # a shortlist is softmax_max at a lower price


def gates_of(model: MultiExitModel) -> tuple[Gate, ...]:
    """Return the gates that can be compared; the learned one only where the checkpoint has it."""
    return (*_COMPARED, Gate.CLASSIFIER) if model.config.gates else _COMPARED


@torch.inference_mode()
def record_gates(model: MultiExitModel, batches: Iterable[PackedBatch], gates: Sequence[Gate]) -> dict[Gate, Recording]:
    """Run the model teacher-forced and keep each gate's confidence at every exit, and whether full depth says the same.

    Confidences come from the functions that the engine's gates call.
    """
    confidence: dict[Gate, list[np.ndarray]] = {gate: [] for gate in gates}
    agrees = []
    for batch in batches:
        inputs: dict[int, Tensor] = {}

        def keep_input(
            index: int, layer: Callable[[Tensor], Tensor], h_BTD: Tensor, kept: dict[int, Tensor] = inputs
        ) -> Tensor:
            kept[index] = h_BTD
            return layer(h_BTD)

        hidden = model(batch, run_layer=keep_input)
        real = batch.target_labels >= 0
        tokens, sure = [], {gate: [] for gate in gates}
        for exit_layer in model.config.exits:
            h_ND, before_ND = hidden[exit_layer - 1][real], inputs[exit_layer - 1][real]
            logits_NV = model.decoder.exit_logits(exit_layer, h_ND)
            tokens.append(logits_NV.argmax(-1))
            is_last = exit_layer == model.config.exits[-1]
            for gate in gates:
                sure[gate].append(_confidence(model, gate, exit_layer, h_ND, before_ND, logits_NV, is_last=is_last))
        tokens_NE = torch.stack(tokens, dim=1)
        agrees.append((tokens_NE == tokens_NE[:, -1:]).cpu().numpy())
        for gate in gates:
            confidence[gate].append(torch.stack(sure[gate], dim=1).cpu().numpy())
    agrees_NE = np.concatenate(agrees)
    return {gate: Recording(np.concatenate(confidence[gate]), agrees_NE) for gate in gates}


def _confidence(
    model: MultiExitModel,
    gate: Gate,
    exit_layer: int,
    h_ND: Tensor,
    before_ND: Tensor,
    logits_NV: Tensor,
    *,
    is_last: bool,
) -> Tensor:
    """Return how sure a gate is [N]; full depth needs no gate and has none that is learned."""
    if gate is Gate.SATURATION:
        return saturation(h_ND, before_ND)
    if gate is Gate.CLASSIFIER:
        return h_ND.new_ones(len(h_ND)) if is_last else model.decoder.gate_logit(exit_layer, h_ND).float().sigmoid()
    return score(logits_NV, gate)[1]
