"""A checkpoint with the exits that are to be trained: the same weights, and new modules that change nothing yet."""

import torch
from torch import Tensor

from actors.model.checkpoint import Checkpoint
from actors.model.model import MultiExitModel
from actors.training.pretrained.low_rank import merged_state_dict
from conf.errors import UserError
from conf.model import ModelConfig
from conf.pretrained import PretrainedConfig

_NEW = ("decoder.adapters.", "decoder.gates.", "decoder.own_heads.")


def with_exits(loaded: Checkpoint, config: PretrainedConfig, device: torch.device) -> Checkpoint:
    """Return the model with the exits, adapters and gates that the configuration asks for, in eval mode.

    Adapters start as the identity, heads of their own as the shared head. Parameters that the model computes and does
    not learn stay as they are: `requires_grad` is False for those alone. UserError where the exits do not fit.
    """
    return with_modules(loaded, _model_config(loaded.config, config), device)


def with_modules(loaded: Checkpoint, model_config: ModelConfig, device: torch.device) -> Checkpoint:
    """Return the same weights with the exits of another configuration; new ones begin as `with_exits` says."""
    model = MultiExitModel(model_config)
    model.to(device)
    report = model.load_state_dict(loaded.model.state_dict(), strict=False)
    strangers = [n for n in (*report.missing_keys, *report.unexpected_keys) if not n.startswith(_NEW)]
    assert not strangers, strangers
    _begin_own_heads(model, report.missing_keys)
    model.encoder.set_pixel_statistics(model_config)
    model.eval()  # running statistics and the library's dropout do not move
    return Checkpoint(model, loaded.codec, model_config, loaded.sha256)


def _model_config(model: ModelConfig, config: PretrainedConfig) -> ModelConfig:
    exits, depth = config.exits or model.exits, model.decoder.num_layers
    if list(exits) != sorted(set(exits)) or exits[-1] != depth:
        raise UserError(f"exits must be increasing layers that end with {depth}, got {list(exits)}")
    if len(exits) < 2:
        raise UserError(
            f"checkpoint {config.checkpoint!r} has no exit before its last layer; name some, for example "
            f"--set exits=[{', '.join(map(str, sorted({max(1, depth // 4), max(1, depth // 2), depth})))}]"
        )
    text = model.text
    if config.decoder_prefix:  # what follows from here on goes by it without being told
        text = text.model_copy(update={"decoder_prefix": config.decoder_prefix})
    changes = {
        "text": text, "exits": exits, "adapters": config.adapters, "gates": config.optimizer.gate_steps > 0,
        "thresholds": None, "gate_thresholds": None, "untrained_exits": (),
    }  # fmt: skip
    return model.model_copy(update=changes)


def _begin_own_heads(model: MultiExitModel, missing: list[str]) -> None:
    for name in missing:
        if name.startswith("decoder.own_heads."):
            kind = name.rpartition(".")[2]
            model.get_parameter(name).data.copy_(model.decoder.head.get_parameter(kind).data)


def shipped_state(model: MultiExitModel) -> dict[str, Tensor]:
    """Return copies of the model's tensors by their plain names, low-rank updates merged into their matrices."""
    return {name: tensor.detach().clone() for name, tensor in merged_state_dict(model).items()}
