"""Architecture of a checkpoint: what `config.json` beside the weights says. Nothing here imports torch.

A family is a set of values and not a class.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.decoder import DecoderConfig
from conf.earlier_checkpoints import with_image_plan
from conf.encoder import EncoderConfig
from conf.image_plan import ImagePlan
from conf.section import Count, Section
from conf.text_rules import TextRules


class GenerationDefaults(Section):
    """How the checkpoint's outputs are meant to be generated; engine.generation overrides what it sets."""

    forced_bos_id: int | None = Field(None, description="Token of the first step, whatever its scores.")
    forced_eos: bool = Field(
        False, description="The last allowed step emits the end token, so an output is cut one token earlier."
    )
    no_repeat_ngram: Annotated[int, Field(ge=0)] = Field(0, description="No n-gram of this size twice; 0: off.")
    repetition_penalty: Annotated[float, Field(gt=0)] = Field(1.0, description="CTRL's penalty; 1: off.")
    min_new_tokens: Annotated[int, Field(ge=0)] = Field(0, description="No end before this many tokens.")
    banned_ids: tuple[tuple[int, ...], ...] = Field((), description="Token sequences that are never said.")
    other_end_ids: tuple[int, ...] = Field((), description="Tokens that end an output as the end token does.")


class ModelConfig(Section):
    """Everything `load_checkpoint` needs besides the weights."""

    format_version: Literal[1] = 1
    name: str
    family: Literal["scenes", "t5", "bart", "bert", "gpt2", "t5gemma2", "latr", "ofa"] = "scenes"
    image_size: Count = Field(description="Side of the square input, pixels; of another input, the longer side.")
    image_plan: ImagePlan | None = Field(None, description="What becomes of a picture; none: that square.")
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    encoder: EncoderConfig
    decoder: DecoderConfig
    text: TextRules = TextRules()
    exits: tuple[int, ...] = Field(description="Layers with a trained exit, increasing; the last is the full depth.")
    untrained_exits: tuple[int, ...] = Field(
        (), description="Exits of a converted model that nothing has trained yet: their tokens are guesses."
    )
    adapters: bool = Field(True, description="An adaptation module before the shared head at every exit but the last.")
    separate_heads: bool = Field(
        False, description="A vocabulary head of its own at every exit (ablation) in place of the shared one."
    )
    gates: bool = Field(False, description="A learned gate at every exit but the last (engine.gate=classifier).")
    thresholds: tuple[float, ...] | None = Field(
        None, description="Calibrated default thresholds, one per exit but the last."
    )
    gate_thresholds: tuple[float, ...] | None = Field(
        None, description="The same for engine.gate=classifier: what the learned gates were calibrated to."
    )
    points_lost: float | None = Field(
        None,
        description="Points the last exit lost in training, beyond what was allowed; none: it kept within. The file "
        "says it only where it is so: versions that do not know it take every other checkpoint.",
    )
    pad_id: int = 0
    start_id: int = 1
    eos_id: int = 2
    prefix_starts: bool = Field(
        False, description="A decoder prefix stands in the place of the start token (Donut); elsewhere it follows it."
    )
    generation: GenerationDefaults = GenerationDefaults()

    _earlier = model_validator(mode="before")(with_image_plan)

    @property
    def plan(self) -> ImagePlan:
        """What becomes of a decoded picture before it travels to the model."""
        return self.image_plan or ImagePlan.squeeze(self.image_size)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Return the tokens that end an output, the end token first."""
        return self.eos_id, *self.generation.other_end_ids

    def given_ids(self, prefix_ids: Sequence[int] = ()) -> tuple[int, ...]:
        """Return what the decoder is given before it says anything."""
        return given_ids(self.start_id, prefix_ids, prefix_starts=self.prefix_starts)

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
        for name in ("thresholds", "gate_thresholds"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.exits) - 1:
                raise ValueError(f"{name} must have {len(self.exits) - 1} values, got {len(values)}")
        return self


def given_ids(start_id: int, prefix_ids: Sequence[int], *, prefix_starts: bool) -> tuple[int, ...]:
    """Return the decoder inputs before the first step, of which there is always one."""
    return tuple(prefix_ids) if prefix_starts and prefix_ids else (start_id, *prefix_ids)
