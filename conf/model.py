"""Architecture of a checkpoint: what `config.json` beside the weights says. Nothing here imports torch.

The decoder is one generic multi-exit decoder; every difference between families is an explicit setting, so that a
family is a set of values and not a class.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from conf.errors import UserError
from conf.schema import Section

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

Count = Annotated[int, Field(ge=1)]


class RelativeBias(Section):
    """T5 relative position bias, one table shared by all layers (Raffel et al. 2020, section 2.1)."""

    num_buckets: Count = 32
    max_distance: Count = 128


class DecoderConfig(Section):
    """Block settings of the multi-exit decoder."""

    num_layers: Count
    d_model: Count
    num_heads: Count
    d_head: Count = Field(description="Width of one head; num_heads * d_head may differ from d_model (T5).")
    d_ff: Count
    d_cross: Count = Field(description="Width of the encoder states the cross-attention reads.")
    vocab_size: Count
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    pre_norm: bool = True
    final_norm: bool = True
    attn_scale: float | None = Field(None, description="Factor on q.k; none: d_head ** -0.5. T5 uses 1.")
    attn_bias: bool = False
    ffn_bias: bool = False
    ffn: Literal["relu", "gelu", "gelu_new", "gated_gelu_new"] = "gelu"
    relative_bias: RelativeBias | None = None
    positions: Literal["none", "learned", "sinusoidal"] = "learned"
    max_positions: Count = Field(512, description="Longest output, in tokens.")
    position_offset: int = Field(0, description="Added to a position before the table is read (BART: 2).")
    embed_scale: float = 1.0
    embed_norm: bool = False
    head_tied: bool = True
    head_scale: float = Field(1.0, description="Factor on the head's input (tied T5: d_model ** -0.5).")
    head_bias: bool = False

    @property
    def d_inner(self) -> int:
        return self.num_heads * self.d_head


class ScenesEncoderConfig(Section):
    """Convolutional stem and transformer over image patches and prompt tokens (jobs/train makes it)."""

    kind: Literal["scenes"] = "scenes"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = Field(
        (32, 64, 128), description="Channels of the stride-2 stages before the last."
    )
    max_prompt_tokens: Count = 64


class ModelConfig(Section):
    """Everything `load_checkpoint` needs besides the weights."""

    format_version: Literal[1] = 1
    name: str
    family: Literal["scenes"] = "scenes"
    image_size: Count = Field(description="Side of the square input, pixels.")
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    encoder: ScenesEncoderConfig
    decoder: DecoderConfig
    exits: tuple[int, ...] = Field(description="Layers with a trained exit, increasing; the last is the full depth.")
    adapters: bool = Field(True, description="An adaptation module before the shared head at every exit but the last.")
    thresholds: tuple[float, ...] | None = Field(
        None, description="Calibrated default thresholds, one per exit but the last."
    )
    pad_id: int = 0
    start_id: int = 1
    eos_id: int = 2

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if (
            list(self.exits) != sorted(set(self.exits))
            or self.exits[-1] != self.decoder.num_layers
            or self.exits[0] < 1
        ):
            raise ValueError(
                f"exits must be increasing layers that end with {self.decoder.num_layers}, got {list(self.exits)}"
            )
        if self.thresholds is not None and len(self.thresholds) != len(self.exits) - 1:
            raise ValueError(f"thresholds must have {len(self.exits) - 1} values, got {len(self.thresholds)}")
        return self


def read_model_config(checkpoint: str | Path) -> ModelConfig:
    """Return the architecture of a checkpoint directory; UserError when it is missing or not valid."""
    path = Path(checkpoint) / CONFIG_FILE
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (path.parent / name).is_file():
            raise UserError(f"checkpoint {str(checkpoint)!r} has no {name}")
    try:
        return ModelConfig.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise UserError(f"checkpoint config {str(path)!r} is not valid: {where}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"checkpoint config {str(path)!r} is not readable: {error}") from None


def weights_sha256(checkpoint: str | Path) -> str:
    """Return the SHA-256 of the weights file, which is the identity of a model in config hashes and run records."""
    digest = hashlib.sha256()
    with open(Path(checkpoint) / WEIGHTS_FILE, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
