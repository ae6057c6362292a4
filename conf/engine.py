"""Configuration of the engine and of what it generates. docs/engine.md says more. Nothing here imports torch."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from conf.section import Section


class Schedule(str, Enum):
    FULL = "full"
    INPLACE = "inplace"
    CONSENSUS = "consensus"
    POOL = "pool"


class KvPolicy(str, Enum):
    JIT = "jit"
    PROJECT = "project"
    COPY = "copy"


class CrossAttention(str, Enum):
    AUTO = "auto"
    PROJECTED = "projected"
    ABSORBED = "absorbed"


class Gate(str, Enum):
    SOFTMAX_MAX = "softmax_max"
    SOFTMAX_DIFF = "softmax_diff"
    SATURATION = "saturation"
    CLASSIFIER = "classifier"
    SHORTLIST = "shortlist"


class Weights(str, Enum):
    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


PROMPT_PLACE = "{prompt}"  # in a decoder prefix


class GenerationConfig(Section):
    """What a finished output looks like."""

    max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        64, description="Tokens after which an output is cut (finish_reason=length)."
    )
    min_new_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="No output ends before this many tokens, or as many as the checkpoint asks for."
    )
    no_repeat_ngram: Annotated[int, Field(ge=0)] | None = Field(
        None, description="No n-gram of this size twice in an output; 0: off; none: what the checkpoint asks for."
    )
    repetition_penalty: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Above 1 makes tokens already said less likely; 1: off; none: what the checkpoint asks for."
    )
    bad_words: tuple[str, ...] = Field(
        (),
        description="Words or phrases never to be said, as the tokenizer spells them with and without a space before; "
        "other cases and inflections are other words.",
    )
    bad_word_ids: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = Field(
        (), description="The same as token ids, in addition."
    )
    decoder_prefix: str = Field(
        "",
        description="Text every output begins with, given to the decoder and not repeated in the result; `{prompt}` "
        "is replaced by the sample's prompt.",
    )
    prefix_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="The same as token ids, without a start token; not together with decoder_prefix."
    )
    max_prefix_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Longest prefix of a request, in tokens; none: its length, or where it holds `{prompt}` 32 "
        "to 64, as the decoder has positions beside max_new_tokens.",
    )
    keep_special_tokens: bool | None = Field(
        None,
        description="Leave special tokens in the text, such as `<loc_52>`; start, end and padding tokens never are. "
        "none: what the checkpoint says.",
    )
    loop_ngram: Annotated[int, Field(ge=0)] = Field(
        0,
        description="An output that ends with loop_repeats copies of the same sequence of at most this many tokens is "
        "cut there (finish_reason=loop); 0: off.",
    )
    loop_repeats: Annotated[int, Field(ge=2)] = Field(
        4, description="Copies in a row that count as a loop. Fewer cut sooner, and may cut what was meant."
    )

    num_beams: Annotated[int, Field(ge=1)] = Field(
        1, description="Beams of beam search, which runs at full depth (schedule=full); 1: greedy. Cost grows with it."
    )
    length_penalty: float = Field(
        1.0, description="Beam search: scores are divided by length to this power. Above 0 favours longer outputs."
    )
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="Beam search: true stops when there are num_beams outputs, false when the others are unlikely to "
        "beat them, never when they cannot.",
    )

    @property
    def has_texts(self) -> bool:
        """Whether something must become token ids before an engine can take it."""
        return bool(self.bad_words or self.decoder_prefix)

    @property
    def longest_prefix(self) -> int:
        """Return the room for prefixes, in tokens, once none of them is a text."""
        return len(self.prefix_ids) if self.max_prefix_tokens is None else self.max_prefix_tokens

    @model_validator(mode="after")
    def _beams_do_not_loop(self) -> "GenerationConfig":
        if self.num_beams > 1 and self.loop_ngram:
            raise ValueError("loop_ngram is for greedy outputs, set num_beams=1 or loop_ngram=0")
        return self

    @model_validator(mode="after")
    def _one_prefix(self) -> "GenerationConfig":
        if self.decoder_prefix and self.prefix_ids:
            raise ValueError("give decoder_prefix or prefix_ids, not both")
        return self


class TuningConfig(Section):
    """Speed and memory of the engine beyond num_slots; no text depends on it, and few runs need another value."""

    encode_batch: Annotated[int, Field(ge=1)] = Field(16, description="Images encoded together.")
    encode_overlap: bool | Literal["auto"] = Field(
        "auto",
        description="Encode the next images while the decoder runs, on a thread and stream of its own; auto: on GPUs. "
        "On CPUs the two compete for the cores. Greedy outputs only.",
    )
    cross: CrossAttention = Field(
        CrossAttention.AUTO,
        description="projected: keys and values of the encoder states are computed once per layer and kept; absorbed: "
        "attention reads the encoder states, which pays for short outputs and needs less memory.",
    )
    max_cache_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Bytes all sequences in flight may take; fewer are then kept in flight. none: no limit."
    )
    oversubscription: Annotated[float, Field(ge=1)] | None = Field(
        None,
        description="pool: sequences in flight for each of num_slots, so that shallow visits are full while deep "
        "queues fill; none: one for each exit, with which some queue is always full. More needs memory and delays "
        "results.",
    )
    max_wait_steps: Annotated[int, Field(ge=1)] = Field(
        32,
        description="Engine steps after which a waiting deep group runs however small. Larger: fuller "
        "deep batches, later results.",
    )
    calibration_s: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="Seconds spent at the start on measuring what visits cost (pool), which says when a deep group is "
        "worth one, and at most as many during the run, 1 % of it, on running some visits at full depth too, which "
        "says what early exit saves. 0: assume that all layers cost the same and batches are free; savings unknown.",
    )


class EngineConfig(Section):
    """The regrouping engine inside each actor."""

    num_slots: Annotated[int, Field(ge=1)] = Field(
        32, description="Most sequences one visit to the decoder takes. Larger shares its fixed cost among more."
    )
    schedule: Schedule = Field(Schedule.POOL, description="pool regroups by depth; full never exits early.")
    kv: KvPolicy = Field(KvPolicy.JIT, description="jit is exact; project and copy are the published approximations.")
    weights: Weights = Field(
        Weights.FP32,
        description="Weights of the decoder's matrices: fp32 leaves them as model.dtype has them; bf16 and int8 are "
        "smaller and faster where the machine has instructions for them, and change some tokens.",
    )
    gate: Gate = Field(Gate.SOFTMAX_MAX, description="How the confidence at an exit is computed.")
    exits: tuple[int, ...] | None = Field(
        None,
        description="Layers that may emit a token, increasing, the last one is the full depth; none: all it has.",
    )
    thresholds: tuple[float, ...] | None = Field(
        None,
        description="Confidence at or above which a token leaves, one per exit but the last; none: the checkpoint's "
        "calibration. Higher is deeper and safer; an exit above 1 never fires and is left out.",
    )
    threshold_decay: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Rate at which thresholds fall along an output (CALM): min(1, 0.9 threshold + 0.1 exp(-rate t / "
        "max_new_tokens)) at token t. Early tokens, which all later ones read, are then safer. none: they stay.",
    )
    lossless: bool = Field(
        False,
        description="Early exits only draft; full depth checks the drafts of a sequence together and replaces the "
        "wrong ones, so that the text is full depth's. No layers are saved, only visits: for latency at few slots.",
    )
    max_drafts: Annotated[int, Field(ge=1)] = Field(
        8, description="lossless: tokens drafted before full depth checks them. Larger: fewer checks, more thrown away."
    )
    generation: GenerationConfig = GenerationConfig()
    tuning: TuningConfig = TuningConfig()

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> "EngineConfig":
        """Read the settings in a run.json, where those of `tuning` stood beside the others before it was a section."""
        tuning = {name: values[name] for name in TuningConfig.model_fields if name in values}
        rest = {name: value for name, value in values.items() if name not in tuning}
        return cls.model_validate({**rest, "tuning": {**tuning, **rest.get("tuning", {})}})

    def at_full_depth(self) -> "EngineConfig":
        """Return the same engine with every token emitted at the last layer, nothing drafted."""
        return self.model_copy(update={"schedule": Schedule.FULL, "lossless": False})

    @model_validator(mode="after")
    def _lossless_needs_jit(self) -> "EngineConfig":
        if self.lossless and self.kv is not KvPolicy.JIT:
            raise ValueError(f"lossless needs kv=jit, got kv={self.kv.value}: full depth must check real features")
        return self

    @model_validator(mode="after")
    def _beams_are_full_depth(self) -> "EngineConfig":
        if self.generation.num_beams > 1 and self.tuning.encode_overlap is True:
            raise ValueError("encode_overlap is for greedy outputs, set num_beams=1 or tuning.encode_overlap=auto")
        if self.generation.num_beams > 1 and self.schedule is not Schedule.FULL:
            raise ValueError(
                f"generation.num_beams={self.generation.num_beams} needs schedule=full: beams are compared at full "
                f"depth, got schedule={self.schedule.value}"
            )
        return self

    @model_validator(mode="after")
    def _exits_increase(self) -> "EngineConfig":
        if self.exits is not None:
            if any(layer < 1 for layer in self.exits):
                raise ValueError(f"exits are layer counts and start at 1, got {list(self.exits)}")
            if any(b <= a for a, b in zip(self.exits, self.exits[1:], strict=False)):
                raise ValueError(f"exits must be increasing, got {list(self.exits)}")
        if self.thresholds is not None and self.exits is not None and len(self.thresholds) != len(self.exits) - 1:
            raise ValueError(
                f"thresholds must have one value per exit but the last, got {len(self.thresholds)} for "
                f"{len(self.exits)} exits"
            )
        return self
