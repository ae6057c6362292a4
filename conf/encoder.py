"""The encoder of a checkpoint: one of our own, or a class of the `transformers` library. Nothing here imports torch."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from conf.decoder import RelativeBias
from conf.section import Count, Section


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


class LatrEncoderConfig(Section):
    """LaTr-style: T5 encoder over visual patches, question tokens and words found in the image, with 2-D layout.

    Our reading of arXiv 2112.12494, at the size one trains from nothing.
    """

    kind: Literal["latr"] = "latr"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = (32, 64, 128)
    relative_bias: RelativeBias = RelativeBias()
    max_prompt_tokens: Count = Field(64, description="Question and words together.")


class OfaEncoderConfig(Section):
    """OFA-style: BART-like encoder over patches and prompt tokens, with NormFormer norms and position scores.

    Our reading of arXiv 2202.03052, at the size one trains from nothing.
    """

    kind: Literal["ofa"] = "ofa"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = (32, 64, 128)
    max_prompt_tokens: Count = 64


class TransformersEncoderConfig(Section):
    """An encoder class of the `transformers` library, built from its own configuration (deed convert makes it)."""

    kind: Literal["transformers"] = "transformers"
    model_type: Literal[
        "t5",
        "mt5",
        "umt5",
        "bart",
        "mbart",
        "pix2struct",
        "t5gemma2",
        "udop",
        "florence2",
        "blip-2",
        "instructblip",
        "vision-encoder-decoder",
        "blip",
    ]
    hf_config: dict[str, Any] = Field(description="config.json of the source, as it was.")
    max_prompt_tokens: Count = 64


def _encoder_kind(value: Any) -> str | None:
    """Return the `kind`, which was not written before there was a choice."""
    return value.get("kind", "scenes") if isinstance(value, dict) else getattr(value, "kind", None)


EncoderConfig = Annotated[
    Annotated[ScenesEncoderConfig, Tag("scenes")]
    | Annotated[LatrEncoderConfig, Tag("latr")]
    | Annotated[OfaEncoderConfig, Tag("ofa")]
    | Annotated[TransformersEncoderConfig, Tag("transformers")],
    Discriminator(_encoder_kind),
]
