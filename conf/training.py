"""Frozen configuration of `deed train`. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from conf.section import Count, Section


class TokenizerConfig(Section):
    """BPE trained on the corpus text when the output has no tokenizer yet."""

    vocab_size: Count = Field(
        1280, description="Entries. The shared head costs d_model * vocab_size per exit and token."
    )
    num_samples: Count = Field(20_000, description="Samples whose text the tokenizer is trained on.")


class ArchitectureConfig(Section):
    """Size of a model trained from scratch."""

    kind: Literal["scenes", "latr", "ofa"] = Field(
        "scenes",
        description="scenes: ours, many prompts per pass; latr: T5-like with words found in the image; ofa: BART-like.",
    )
    adapters: bool = Field(True, description="An adaptation module before the shared head of every exit (DEED).")
    separate_heads: bool = Field(False, description="A head of its own at every exit instead: the ablation.")
    name: str = Field("deed-scenes", description="What the checkpoint is called.")
    image_size: Count = Field(
        128, description="Side of the square input, pixels. The encoder's cost grows with its square."
    )
    d_model: Count = Field(192, description="Width of encoder and decoder.")
    num_heads: Count = Field(6, description="Attention heads, which share the width.")
    d_ff: Count = Field(768, description="Width inside the feed-forward networks.")
    encoder_layers: Count = Field(3, description="Transformer layers of the encoder.")
    decoder_layers: Count = Field(8, description="Layers of the decoder, each of which gets an exit.")
    stem_channels: tuple[int, ...] = Field(
        (32, 64, 128), description="Channels of the stride-2 stages before the last."
    )
    max_positions: Count = Field(96, description="Longest output, tokens.")
    max_prompt_tokens: Count = Field(48, description="Longest prompt, tokens.")


class DataConfig(Section):
    """WebDataset shards of images with `captions` and `qa` lists in their JSON (see jobs/scenes)."""

    train: tuple[str, ...] = Field(description="Training shards; globs are expanded.")
    validation: tuple[str, ...] = Field(description="Validation shards.")
    words_field: str = Field(
        "sign.plates", description="Where a sample's record has the words in its image; read by architecture.kind=latr."
    )
    decoder_prefix: str = Field(
        "",
        description="What outputs begin with; `{prompt}` is the prompt in it. Targets are learned after it, and the "
        "checkpoint's outputs begin with it.",
    )
    prompt_tokens: Count = Field(48, description="Prompt tokens packed per image. Larger: more questions per image.")
    target_tokens: Count = Field(56, description="Target tokens packed per image, a caption first, answers after it.")
    shuffle_shards: Count = Field(4, description="Shards mixed in memory at once.")


class OptimizerConfig(Section):
    batch_images: Count = Field(32, description="Images per optimizer step.")
    accumulate: Count = Field(
        1, description="Micro-batches per optimizer step; each has batch_images / accumulate images."
    )
    total_steps: Count = Field(3000, description="Optimizer steps of the whole schedule.")
    encoder_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="The first of these steps train the encoder alone, by the corpus' known places."
    )
    encoder_batch_images: Count = Field(64, description="Images per step of those.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(200, description="Steps over which the rate rises to its peak.")
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the steps, at the end, over which the rate falls as a cosine; before it is constant."
    )
    peak_lr: float = Field(1e-3, description="Highest learning rate of AdamW.")
    muon_lr: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Highest learning rate of Muon, for matrices inside the layers and convolutions; 0: AdamW for all.",
    )
    weight_decay: float = Field(0.02, description="Of matrices, in units of the rate. Larger: smaller weights.")
    beta2: float = Field(0.98, description="Share of AdamW's mean square that a step keeps. Larger: a longer memory.")
    clip_norm: float = Field(1.0, description="Norm above which a step's gradient is scaled down to it.")


class LossConfig(Section):
    """DEED's deep supervision: mean over exits plus the last one once more (arXiv 2311.08623)."""

    weights: Literal["mean_plus_last", "mean", "index"] = Field(
        "mean_plus_last",
        description="mean_plus_last: the paper; mean: ablation; index: CALM, proportional to the layer.",
    )
    grounding_weight: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="Weight of the questions put to the encoder where places are known; 0 turns them off.",
    )


class WorkersConfig(Section):
    """Data parallel training through Ray Train. One worker: in this process, without Ray."""

    num_workers: Count = Field(1, description="Processes that share every step's images.")
    num_cpus: Annotated[float, Field(gt=0)] = Field(1.0, description="CPUs each of them reserves.")
    max_failures: Annotated[int, Field(ge=0)] = Field(
        3, description="Times the group is started anew from the last saved state when a worker dies."
    )


class TrainConfig(Section):
    """One training run; rerunning the same command resumes it."""

    mode: Literal["deep_supervision"] = Field(
        "deep_supervision", description="Everything trains; from a checkpoint: conf/pretrained.py."
    )
    output: str = Field(description="Run directory: state, log and the checkpoint to ship.")
    seed: int = Field(0, description="Of the weights and of the order of samples.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="Autocast type. auto: bfloat16 where the device multiplies it natively; elsewhere it is very slow.",
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")
    tokenizer: TokenizerConfig = TokenizerConfig()
    architecture: ArchitectureConfig = ArchitectureConfig()
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    workers: WorkersConfig = WorkersConfig()
    patience: Count | None = Field(
        None, description="Validations without a better last exit after which training ends; none: never."
    )
    validate_every: Count = Field(250, description="Steps between validations.")
    save_every: Count = Field(100, description="Steps between resumable states.")
    validation_images: Count = Field(
        256, description="Validation images used for the per-exit accuracy shown in progress."
    )
