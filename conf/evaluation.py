"""Frozen configuration of `deed evaluate` and `deed calibrate`. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.engine import EngineConfig
from conf.guarantee import DEFAULTS_ONLY, SCHEDULES, Level, Loss, Method
from conf.rows import USUAL_FIELDS, RowsConfig, TargetConfig, TaskConfig
from conf.section import Count, Section

Threshold = Annotated[float, Field(ge=0)]
Risk = Annotated[float, Field(ge=0, le=1)]
_LOOKED_FOR = ("exits", "thresholds", "lossless")


class LabelledConfig(RowsConfig):
    """A checkpoint and what it is scored on: a source that says what is right, by the usual names where none is given.

    Thresholds are chosen on other images than results are reported on.
    """

    checkpoint: str = Field(description="Checkpoint directory.")
    shard_order: Literal["random", "listed"] = Field(
        "listed", description="listed: the first images are used; random: shards in an order that depends on `seed`."
    )
    prompts_per_image: Count | None = Field(
        None, description="Most prompts that each task has for an image, the first ones; none: all."
    )
    group_by: tuple[str, ...] = Field(
        (), description="Fields of a sample, or of its prompts; answers are also scored for each of their values."
    )
    num_threads: int | None = Field(None, description="CPU threads; none: all.")

    @property
    def needs_labels(self) -> bool:
        """Whether something is scored by what is right."""
        return True

    @property
    def all_tasks(self) -> tuple[TaskConfig, ...]:
        """Return everything that is asked of an image, each with a target that says what is right, if that is needed:
        images without labels are left out where it is."""
        if not self.needs_labels:
            return tuple(t.model_copy(update={"target": TargetConfig(run=t.target.run)}) for t in super().all_tasks)
        usual = {"target": TargetConfig(field=USUAL_FIELDS)}
        return tuple(t if t.target.has_labels else t.model_copy(update=usual) for t in super().all_tasks)

    @property
    def kept_fields(self) -> tuple[str, ...]:
        return *super().kept_fields, *self.group_by

    @model_validator(mode="after")
    def _scores_need_labels(self) -> "LabelledConfig":
        runs = [target.run for target in (self.target, *(task.target for task in self.tasks))]
        if self.needs_labels and any(run is not None for run in runs):
            raise ValueError("target.run is what a model has said; scores need what is right, target.field or template")
        return self


class EvaluateConfig(LabelledConfig):
    """Score a checkpoint on labelled rows: every exit alone, calibrated early exits, a sweep of thresholds."""

    max_images: Count = Field(300, description="Most images that are scored.")
    static_exits: bool = Field(True, description="Also score every exit alone, which costs one pass per exit.")
    thresholds: tuple[Threshold, ...] = Field(
        (0.8, 0.9, 0.95, 0.99), description="Each is a row of early exit with this threshold at every exit."
    )
    engine: EngineConfig = EngineConfig()
    output: str | None = Field(None, description="JSON file for the numbers; none: only printed.")


class PromiseConfig(Section):
    """What deed calibrate is to promise of early exit on the source, and by how many of its images."""

    risk: Level | None = Field(
        None,
        description="Upper bound of the mean loss; none: thresholds are chosen by labels, and nothing is promised.",
    )
    level: Level = Field(0.95, description="Probability with which the promise holds, over the draw of the images.")
    method: Method = Field(
        "learn_then_test",
        description="How it is tested. learn_then_test: exact for losses of 0 or 1; betting: for losses between, where "
        "it needs fewer images; conformal_risk_control: the fewest images, but in expectation alone, without `level`.",
    )
    loss: Loss = Field(
        "text_differs",
        description="Of an image, the worst of its prompts. text_differs: 1 where the text is not that of full depth; "
        "dissimilarity: 1 - ROUGE-L of the two; points_lost: how much worse than full depth's it is by the labels.",
    )
    sample_images: Count = Field(2000, description="Images, a random sample of all, that the promise is tested on.")
    path_images: Count = Field(500, description="Further ones that candidates of thresholds are made by.")


class CalibrateConfig(LabelledConfig):
    """Choose the exit thresholds of a checkpoint on labelled rows, or for a promise that needs no labels."""

    guarantee: PromiseConfig = PromiseConfig()
    max_images: Count = Field(400, description="Most images whose confidences are recorded. A guarantee is of all.")
    check_images: Count = Field(
        150, description="Of these, images decoded by the engine to check the quality of each candidate."
    )
    risks: tuple[Risk, ...] = Field(
        (0.002, 0.005, 0.01, 0.02, 0.04),
        description="Candidate rates of disagreement with full depth, per exit. Larger is shallower and riskier.",
    )
    max_points_lost: float = Field(
        0.5,
        description="Points of captions (F1 of object names, or ROUGE-L where nobody names them), of answers, and of "
        "the answers of each group that early exit may lose.",
    )
    exits: tuple[int, ...] | None = Field(
        None, description="Exits to use, ending with full depth; none: all trained ones."
    )
    decoder_prefix: str = Field(
        "", description="What outputs begin with, as engine.generation.decoder_prefix; none: what the checkpoint says."
    )
    num_slots: Count = Field(32, description="Sequences in flight while candidates are checked.")
    engine: EngineConfig = Field(
        EngineConfig(),
        description="With a guarantee: as jobs will run it. Full depth's texts are those of its options.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="With a guarantee: CUDA where there is one.")
    output: str | None = Field(
        None, description="File that a guarantee goes to, and the checkpoint stays as it is; none: into that."
    )

    @property
    def needs_labels(self) -> bool:
        return self.guarantee.risk is None or self.guarantee.loss == "points_lost"

    @model_validator(mode="after")
    def _can_be_promised(self) -> "CalibrateConfig":
        if self.guarantee.risk is None:
            if self.output is not None:
                raise ValueError("output is the file of a guarantee, which needs guarantee.risk (--risk)")
            return self
        if "max_images" in self.model_fields_set:
            raise ValueError(
                "max_images: a guarantee is about all images of the source; guarantee.sample_images says how many of "
                "them are looked at"
            )
        for name in (*DEFAULTS_ONLY, *_LOOKED_FOR):
            if getattr(self.engine, name) != EngineConfig.model_fields[name].default:
                raise ValueError(
                    f"engine.{name}: a guarantee is of early exit with what this is by default, or looks for it itself"
                )
        if self.engine.schedule not in SCHEDULES:
            raise ValueError(
                f"engine.schedule={self.engine.schedule.value}: a guarantee is of schedules that let every text leave "
                "by itself, pool and inplace"
            )
        if len({task.target.run is None for task in self.all_tasks}) > 1:
            raise ValueError("target.run is for all tasks or for none")
        return self
