"""Frozen configuration of `deed train` with mode=frozen. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from conf.section import Count, Section
from conf.source import DEFAULT_PROMPT
from conf.training import WorkersConfig

NotNegative = Annotated[int, Field(ge=0)]


class FrozenOptimizerConfig(Section):
    batch_images: Count = Field(16, description="Images per optimizer step.")
    accumulate: Count = Field(1, description="Micro-batches per optimizer step. More: less memory, same steps.")
    adapter_steps: NotNegative = Field(600, description="Steps that train the adapters.")
    gate_steps: NotNegative = Field(200, description="Steps after those that train a learned exit gate; 0: no gate.")
    warmup_steps: NotNegative = Field(20, description="Steps over which the rate rises to its peak, in each stage.")
    peak_lr: float = Field(2e-3, description="Highest learning rate of AdamW; falls as a cosine.")
    gate_lr: float = Field(1e-2, description="The same for the gates.")
    clip_norm: float = Field(1.0, description="Norm above which a step's gradient is scaled down to it.")


class FrozenConfig(Section):
    """Train exits on a model that stays as it is, by its own last layer, on images without labels."""

    mode: Literal["frozen"] = Field("frozen", description="What tells this schema from conf/training.py.")
    checkpoint: str = Field(description="Checkpoint directory, for example from deed convert.")
    output: str = Field(description="Run directory: state, log and the checkpoint with trained exits.")
    shards: tuple[str, ...] = Field(description="WebDataset tars with images; texts in them are not looked at.")
    prompts: tuple[str, ...] = Field((DEFAULT_PROMPT,), description="Prompts; every image gets one, in turn.")
    num_images: Count = Field(2000, description="Most images used.")
    validation_images: Count = Field(
        128,
        description="Of these, images held out to choose by (thresholds, when to stop); half of the others at most.",
    )
    test_images: Count = Field(
        128, description="Of these, images held out to report on, by which nothing is chosen; half of all at most."
    )
    decoder_prefix: str = Field(
        "",
        description="What outputs begin with, as engine.generation.decoder_prefix will say; they are learned after it.",
    )
    max_new_tokens: Count = Field(32, description="Longest output learned from.")
    risk: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description="Thresholds are set for this rate of disagreement with full depth, per exit."
    )
    optimizer: FrozenOptimizerConfig = FrozenOptimizerConfig()
    workers: WorkersConfig = WorkersConfig()
    patience: Count | None = Field(None, description="Validations without improvement that end a stage; none: never.")
    validate_every: Count = Field(100, description="Steps between validations.")
    save_every: Count = Field(50, description="Steps between resumable states.")
    num_slots: Count = Field(16, description="Sequences in flight while the model writes its own targets.")
    seed: int = Field(0, description="Of the order of samples.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="Autocast type of training; outputs are always decoded in float32."
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")
