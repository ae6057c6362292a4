"""Which parameters train, and how fast: one group of the optimizer for each part and each kind of decay."""

import math
from dataclasses import dataclass

from torch import nn

from actors.model.model import MultiExitModel
from actors.training.pretrained.low_rank import add_low_rank
from conf.pretrained import PretrainedConfig, PretrainedOptimizerConfig

_NEW_MODULES = ("adapters", "own_heads")
_HEAD = ("embedding", "head", "position_table", "token_types", "head_transform")


@dataclass(frozen=True)
class Part:
    """Parameters by name, with the highest rate they are moved at; decay holds for those that are matrices."""

    name: str
    parameters: dict[str, nn.Parameter]
    peak_lr: float
    decays: bool = True


def parts_of(model: MultiExitModel, config: PretrainedConfig) -> list[Part]:
    """Return what the main stage trains. Where updates are of low rank, they are added to the model here."""
    o, decoder = config.optimizer, model.decoder
    new = [name for name in _NEW_MODULES if len(getattr(decoder, name))]
    exits = Part("exits", _named(model, tuple(f"decoder.{name}." for name in new)), o.exit_lr, decays=False)
    if config.is_frozen:
        return [exits]
    if config.parts == "low_rank":
        rank, alpha = config.low_rank.rank, config.low_rank.alpha
        thin = {"decoder": decoder.layers} | ({"encoder": model.encoder} if config.train_encoder else {})
        for module in thin.values():
            add_low_rank(module, rank, alpha, config.seed)
        rates = {"decoder": o.decoder_lr, "encoder": o.encoder_lr}
        named = {n: p for n, p in _named(model, tuple(thin)).items() if ".parametrizations." in n}
        return [
            *(Part(part, _starting(named, f"{part}."), rates[part], decays=False) for part in thin),
            exits,
        ]
    head = _named(model, tuple(f"decoder.{name}." for name in _HEAD))
    taken = {id(p) for p in (*exits.parameters.values(), *head.values(), *decoder.gates.parameters())}
    rest = {n: p for n, p in _named(model, ("decoder.",)).items() if id(p) not in taken}
    parts = [Part("decoder", rest, o.decoder_lr), Part("head", head, o.head_lr), exits]
    if config.parts == "everything":
        taken |= {id(p) for p in rest.values()}
        encoder = {n: p for n, p in _named(model, ("encoder.",)).items() if id(p) not in taken}
        parts.append(Part("encoder", encoder, o.encoder_lr))
    return [part for part in parts if part.parameters]


def gates_of(model: MultiExitModel, config: PretrainedConfig) -> list[Part]:
    """Return what the stage of the gates trains."""
    return [Part("gates", _named(model, ("decoder.gates.",)), config.optimizer.gate_lr, decays=False)]


def parameters_of(model: MultiExitModel) -> dict[str, nn.Parameter]:
    """Return every parameter once; one that encoder and decoder share has the decoder's name."""
    named: dict[str, nn.Parameter] = {}
    for prefix, module in (("decoder", model.decoder), ("encoder", model.encoder)):
        seen = {id(p) for p in named.values()}
        named |= {f"{prefix}.{n}": p for n, p in module.named_parameters() if id(p) not in seen}
    return named


def _named(model: MultiExitModel, prefixes: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Parameters that can learn (exits.with_exits), below these names."""
    return {n: p for n, p in parameters_of(model).items() if n.startswith(prefixes) and p.requires_grad}


def _starting(named: dict[str, nn.Parameter], prefix: str) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in named.items() if name.startswith(prefix)}


def optimizer_groups(parts: list[Part], config: PretrainedOptimizerConfig) -> list[dict[str, object]]:
    """Return the groups of AdamW, each with the `peak_lr` that `rate_share` is applied to."""
    groups: list[dict[str, object]] = []
    for part in parts:
        matrices = [p for p in part.parameters.values() if p.dim() >= 2 and part.decays]
        others = [p for p in part.parameters.values() if p.dim() < 2 or not part.decays]
        for parameters, decay in ((matrices, config.weight_decay), (others, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "lr": 0.0, "peak_lr": part.peak_lr})
    return groups


def rate_share(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate at a stage's step: up linearly, then down as a cosine to 1 %."""
    warm = min(1.0, (step + 1) / max(1, min(warmup, steps // 4)))  # a short stage gets to its peak, too
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))))
