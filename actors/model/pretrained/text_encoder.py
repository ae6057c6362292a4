"""Encoders that read the prompt alone: T5, mT5, UMT5, BART, mBART. The image is not looked at."""

from typing import Any

from torch import Tensor, nn

from actors.model.pretrained.encoder import PretrainedEncoder
from conf.model import ModelConfig


class TextEncoder(PretrainedEncoder):
    """Prompt tokens -> states."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        self.stack = _stack(model.encoder.model_type, model.encoder.hf_config)

    @property
    def max_context(self) -> int:
        return self.max_prompt_tokens

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        states = self.stack(input_ids=prompt_ids_BQ, attention_mask=prompt_mask_BQ.long()).last_hidden_state
        return states, prompt_mask_BQ


def t5_stack(config: Any) -> nn.Module:
    """Return the encoder of a T5 configuration."""
    from transformers.models.t5.modeling_t5 import T5Stack

    config.is_decoder, config.use_cache = False, False
    return T5Stack(config)


def _stack(model_type: str, raw: dict[str, object]) -> nn.Module:
    if model_type == "t5":
        from transformers.models.t5.configuration_t5 import T5Config

        return t5_stack(T5Config.from_dict(raw))
    if model_type == "mt5":
        from transformers.models.mt5.configuration_mt5 import MT5Config
        from transformers.models.mt5.modeling_mt5 import MT5Stack

        mt5_config = MT5Config.from_dict(raw)
        mt5_config.is_decoder, mt5_config.use_cache = False, False
        return MT5Stack(mt5_config)
    if model_type == "umt5":
        from transformers.models.umt5.configuration_umt5 import UMT5Config
        from transformers.models.umt5.modeling_umt5 import UMT5Stack

        umt5_config = UMT5Config.from_dict(raw)
        umt5_config.is_decoder, umt5_config.use_cache = False, False
        return UMT5Stack(umt5_config)
    if model_type == "bart":
        from transformers.models.bart.configuration_bart import BartConfig
        from transformers.models.bart.modeling_bart import BartEncoder

        return BartEncoder(BartConfig.from_dict(raw))
    from transformers.models.mbart.configuration_mbart import MBartConfig
    from transformers.models.mbart.modeling_mbart import MBartEncoder

    return MBartEncoder(MBartConfig.from_dict(raw))
