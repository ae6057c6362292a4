"""Frozen configuration of `deed train` from a checkpoint that exists. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.rows import LoadingConfig, RowsConfig
from conf.section import Count, Section
from conf.training import WorkersConfig

NotNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ExitLossConfig(Section):
    """What every exit is taught, and how much each of them counts."""

    weights: Literal["mean_plus_last", "mean", "index", "coefficient"] = Field(
        "mean_plus_last",
        description="mean_plus_last: DEED (arXiv 2311.08623); mean: all alike; index: CALM, proportional to the layer; "
        "coefficient: 1 for the last exit, `coefficient` for every other.",
    )
    coefficient: Rate = Field(0.1, description="weights=coefficient: weight of every exit but the last.")
    soft: Share = Field(
        0.0,
        description="Share of what an exit before the last learns from the last one's distribution; the rest is the "
        "target itself. mode=frozen: always 1.",
    )
    stop_head_gradient: bool = Field(
        False, description="Exits before the last do not move the head they share (arXiv 2011.03109)."
    )
    layer_dropout: Share = Field(
        0.0,
        description="Rate at which the last layer is skipped in a step; it falls with depth to none at the first "
        "(LayerSkip, arXiv 2404.16710).",
    )


class LowRankConfig(Section):
    """parts=low_rank: matrices move by a product of two thin ones, which is merged in the end (arXiv 2106.09685)."""

    rank: Count = Field(16, description="Width of the thin matrices. More: closer to training everything.")
    alpha: Annotated[float, Field(gt=0)] = Field(32.0, description="The product counts alpha / rank.")


class PretrainedOptimizerConfig(Section):
    batch_images: Count = Field(32, description="Images per optimizer step.")
    accumulate: Count = Field(1, description="Micro-batches per optimizer step. More: less memory, same steps.")
    total_steps: NotNegative = Field(2000, description="Optimizer steps of the main stage; 0: none.")
    gate_steps: NotNegative = Field(
        0, description="Steps after those that train a learned exit gate, everything else standing still; 0: no gate."
    )
    warmup_steps: NotNegative = Field(50, description="Steps over which rates rise to their peak, in each stage.")
    decoder_lr: Rate = Field(3e-4, description="Highest rate of the decoder's layers; falls as a cosine.")
    encoder_lr: Rate = Field(3e-5, description="The same of the encoder, where it trains.")
    head_lr: Rate = Field(1e-4, description="The same of token embeddings and head.")
    exit_lr: Rate = Field(1e-3, description="The same of the adapters in front of the head.")
    gate_lr: Rate = Field(1e-2, description="The same of learned gates.")
    weight_decay: Rate = Field(0.01, description="Of matrices, in units of the rate.")
    beta2: Share = Field(0.98, description="Share of AdamW's mean square that a step keeps. Larger: a longer memory.")
    clip_norm: float = Field(1.0, description="Norm above which a step's gradient is scaled down to it.")
    ema: Share = Field(
        0.0,
        description="Share of the running mean of weights that a step keeps; the mean is what is validated and "
        "shipped. 0: no mean.",
    )


class PretrainedConfig(RowsConfig):
    """Give a pretrained model exits: by deep supervision, or with every weight of its own frozen."""

    mode: Literal["deep_supervision", "frozen"] = Field(
        "deep_supervision",
        description="deep_supervision: the model itself learns to say things early; frozen: only adapters and gates "
        "learn, and full depth stays what it is, bit for bit.",
    )
    checkpoint: str = Field(description="Checkpoint directory, for example from deed convert.")
    output: str = Field(description="Run directory: state, log and the checkpoint with trained exits.")
    parts: Literal["everything", "decoder", "low_rank"] = Field(
        "decoder",
        description="deep_supervision: what trains beside the adapters. decoder: its layers, embeddings and head; "
        "everything: the encoder too; low_rank: thin updates of the decoder's matrices.",
    )
    train_encoder: bool = Field(False, description="parts=low_rank: the encoder's matrices get thin updates too.")
    exits: tuple[Count, ...] | None = Field(
        None, description="Layers that get an exit, the last one included; none: those of the checkpoint."
    )
    adapters: bool = Field(True, description="An adaptation module before the shared head of every exit (DEED).")
    decoder_prefix: str = Field(
        "",
        description="What outputs begin with; `{prompt}` is the prompt in it. Targets are learned after it, and "
        "outputs of the trained checkpoint begin with it. None: what the checkpoint says.",
    )
    max_new_tokens: Count = Field(64, description="Longest target; longer ones are cut there.")
    prompts_per_image: Count = Field(4, description="Most prompts of an image in one step; drawn anew every epoch.")
    validation_images: Count = Field(
        200, description="Images held out to choose by: thresholds, when to stop. At most a quarter of all."
    )
    test_images: Count = Field(
        200, description="Images held out to report on, by which nothing is chosen. At most a quarter of all."
    )
    risk: Share = Field(
        0.005, description="Thresholds are set for this rate of disagreement with full depth, per exit."
    )
    max_points_lost: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="Points the last exit may lose on the test images; a checkpoint that lost more is marked, and the "
        "command ends with exit code 8.",
    )
    low_rank: LowRankConfig = LowRankConfig()
    loss: ExitLossConfig = ExitLossConfig()
    optimizer: PretrainedOptimizerConfig = PretrainedOptimizerConfig()
    loading: LoadingConfig = LoadingConfig()
    workers: WorkersConfig = WorkersConfig()
    checkpointing: bool = Field(
        False, description="Activations are computed again in the backward pass: a third more time, far less memory."
    )
    patience: Count | None = Field(None, description="Validations without improvement that end a stage; none: never.")
    validate_every: Count = Field(200, description="Steps between validations.")
    save_every: Count = Field(100, description="Steps between resumable states.")
    num_slots: Count = Field(16, description="Sequences in flight while held-out rows are decoded.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="Autocast type of training; outputs are always decoded in float32. auto: bfloat16 where the device "
        "multiplies it natively.",
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")

    @property
    def is_frozen(self) -> bool:
        return self.mode == "frozen"

    @model_validator(mode="after")
    def _frozen_learns_from_itself(self) -> "PretrainedConfig":
        if self.is_frozen and any(task.target.has_labels for task in self.all_tasks):
            raise ValueError("mode=frozen learns what the model's own last layer says; targets take no field")
        if self.is_frozen and not self.adapters:
            raise ValueError("mode=frozen trains the adapters, set adapters=true")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "PretrainedConfig":
        if self.optimizer.total_steps == self.optimizer.gate_steps == 0:
            raise ValueError("nothing would train: optimizer.total_steps and optimizer.gate_steps are both 0")
        if self.is_frozen:
            idle = {
                "parts": self.parts != "decoder", "loss.soft": self.loss.soft not in (0.0, 1.0),
                "loss.layer_dropout": self.loss.layer_dropout > 0,
                "loss.stop_head_gradient": self.loss.stop_head_gradient,
            }  # fmt: skip
            if (name := next((name for name, given in idle.items() if given), None)) is not None:
                raise ValueError(f"{name} changes nothing with mode=frozen, in which only adapters and gates train")
        if self.train_encoder and self.parts != "low_rank":
            raise ValueError("train_encoder is for parts=low_rank; parts=everything trains the encoder as it is")
        if self.low_rank != LowRankConfig() and self.parts != "low_rank":
            raise ValueError(f"low_rank changes nothing with parts={self.parts}, set parts=low_rank")
        if self.loss.coefficient != ExitLossConfig().coefficient and self.loss.weights != "coefficient":
            raise ValueError(f"loss.coefficient changes nothing with loss.weights={self.loss.weights}, set coefficient")
        return self
