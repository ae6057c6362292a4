"""Frozen configuration of `deed exits`. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.engine import EngineConfig
from conf.rows import RowsConfig
from conf.section import Count

_SEARCHED = ("schedule", "kv", "gate", "exits", "thresholds", "threshold_decay", "lossless")


class ExitsConfig(RowsConfig):
    """Choose the layers that may say a token by what they cost here and how often they agree with full depth."""

    checkpoint: str = Field(description="Checkpoint directory.")
    max_images: Count = Field(
        200, description="Images whose rows are looked at: half of them to choose by, the others to report on."
    )
    risk: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Rate of disagreement with full depth that the thresholds are set for, per exit."
    )
    best_for: Literal["throughput", "latency"] = Field(
        "throughput", description="throughput: least time at engine.num_slots; latency: at one sequence a visit."
    )
    candidates: tuple[Count, ...] | None = Field(
        None, description="Layers that may become exits, full depth aside; none: all of them."
    )
    rounds: Count = Field(5, description="Times that every cost is measured, in turns; the median counts.")
    engine: EngineConfig = Field(EngineConfig(), description="As jobs will run it, but for what is looked for here.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the weights, as model.dtype of a job.")
    num_threads: Count = Field(1, description="CPU threads, as the engines of a job have them: costs depend on it.")

    @model_validator(mode="after")
    def _asks_full_depth(self) -> "ExitsConfig":
        targets = [task.target for task in self.all_tasks]
        if any(target.has_labels for target in targets):
            raise ValueError(
                "exits are compared with what full depth says, not with labels; deed calibrate uses labels"
            )
        if len({target.run is None for target in targets}) > 1:
            raise ValueError("target.run is for all tasks or for none")
        return self

    @model_validator(mode="after")
    def _searches_itself(self) -> "ExitsConfig":
        for name in _SEARCHED:
            if getattr(self.engine, name) != EngineConfig.model_fields[name].default:
                raise ValueError(
                    f"engine.{name} is what deed exits looks for, or takes for granted where it predicts times"
                )
        if self.engine.generation.num_beams > 1:
            raise ValueError("engine.generation.num_beams: beams run at full depth and have no exits")
        return self
