"""Frozen configuration of `deed train`. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from conf.model import Count
from conf.schema import Section


class TokenizerConfig(Section):
    """BPE trained on the corpus text when the output has no tokenizer yet."""

    vocab_size: Count = Field(
        1280, description="Entries. The shared head costs d_model * vocab_size per exit and token."
    )
    num_samples: Count = Field(20_000, description="Samples whose text the tokenizer is trained on.")


class ArchitectureConfig(Section):
    """Size of a model trained from scratch."""

    name: str = "deed-scenes"
    image_size: Count = 128
    d_model: Count = 192
    num_heads: Count = 6
    d_ff: Count = 768
    encoder_layers: Count = 3
    decoder_layers: Count = 8
    stem_channels: tuple[int, ...] = (32, 64, 128)
    max_positions: Count = Field(96, description="Longest output, tokens.")
    max_prompt_tokens: Count = 48


class DataConfig(Section):
    """WebDataset shards of images with `captions` and `qa` lists in their JSON (see jobs/scenes)."""

    train: tuple[str, ...] = Field(description="Training shards; globs are expanded.")
    validation: tuple[str, ...] = Field(description="Validation shards.")
    prompt_tokens: Count = Field(48, description="Prompt tokens packed per image. Larger: more questions per image.")
    target_tokens: Count = Field(56, description="Target tokens packed per image, a caption first, answers after it.")
    shuffle_shards: Count = Field(4, description="Shards mixed in memory at once.")


class OptimizerConfig(Section):
    batch_images: Count = Field(32, description="Images per optimizer step.")
    accumulate: Count = Field(
        1, description="Micro-batches per optimizer step; each has batch_images / accumulate images."
    )
    total_steps: Count = Field(3000, description="Optimizer steps of the whole schedule.")
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the steps, at the end, over which the rate falls as a cosine; before it is constant."
    )
    peak_lr: float = Field(1e-3, description="Highest learning rate of AdamW.")
    weight_decay: float = 0.02
    beta2: float = 0.98
    clip_norm: float = 1.0


class LossConfig(Section):
    """DEED's deep supervision: mean over exits plus the last one once more (arXiv 2311.08623)."""

    weights: Literal["mean_plus_last", "mean", "index"] = Field(
        "mean_plus_last",
        description="mean_plus_last: the paper; mean: ablation; index: CALM, proportional to the layer.",
    )
    grounding_weight: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="Weight of naming the object under its centre patch, where places are known; 0 turns it off.",
    )


class TrainConfig(Section):
    """One training run; rerunning the same command resumes it."""

    output: str = Field(description="Run directory: state, log and the checkpoint to ship.")
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Autocast type. bfloat16 pays on GPUs and CPUs with native bf16, and is very slow on others.",
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")
    tokenizer: TokenizerConfig = TokenizerConfig()
    architecture: ArchitectureConfig = ArchitectureConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    validate_every: Count = Field(250, description="Steps between validations.")
    save_every: Count = Field(100, description="Steps between resumable states.")
    validation_images: Count = Field(
        256, description="Validation images used for the per-exit accuracy shown in progress."
    )
