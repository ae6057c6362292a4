"""Frozen configuration of the batch job, one model per stage in the order the data flows.

Every field says its unit and which way to turn it. Unknown keys are errors. Nothing here imports torch or ray.
"""

from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceKind(str, Enum):
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    IMAGES = "images"
    MANIFEST = "manifest"


class PromptConfig(Section):
    """What the model is asked for every image."""

    template: str = Field(
        "describe the image",
        description="Prompt text; `{column}` is replaced by that column (or JSON field) of the sample.",
    )
    list_field: str | None = Field(
        None,
        description="Name of a sample field that holds several prompts; one result row is written for each of them.",
    )
    words_field: str | None = Field(
        None,
        description="Dotted name of a sample field with words found in the image and their boxes (pipeline/words.py); "
        "added to the prompt, for models that read them.",
    )


class RetryConfig(Section):
    """How long an outage of the source's storage is waited out, and how."""

    outage_s: Annotated[float, Field(ge=0)] = Field(
        90.0,
        description="Seconds for which a request is repeated while it fails for a reason that may pass (connections, "
        "timeouts, 429, 5xx); what still fails then becomes errors rows. 0: one try.",
    )
    longest_wait_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Most seconds between two tries: the first wait is 0.2 s, each is twice the one before."
    )


class FetchConfig(Section):
    """How the images of a manifest are fetched."""

    max_concurrent: Annotated[int, Field(ge=1)] = Field(
        16, description="Images under way at once in each preprocessing task. More hides a slow server, costs memory."
    )
    attempts: Annotated[int, Field(ge=1)] = Field(
        4,
        description="http(s): tries for each image, with growing waits; only timeouts, 429, 5xx and broken connections "
        "count. Images on storage (s3, gs, ...) follow source.retry.",
    )
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Seconds one try for one image may take; not for files, whose reads cannot be broken off."
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(
        100_000_000, description="Larger images become errors rows and are not read to their end."
    )
    schemes: tuple[str, ...] = Field(
        ("https", "http", "s3", "gs", "az", "abfs", "hf", "file"),
        description="Schemes a URI may have; file is a path. Leave file out where others write the manifest.",
    )


class SourceConfig(Section):
    """Where the images come from."""

    kind: SourceKind = Field(SourceKind.WEBDATASET, description="How the shards are stored.")
    paths: tuple[str, ...] = Field(
        min_length=1, description="Shard paths or URLs; globs (*) and brace ranges ({000..003}) are expanded."
    )
    chunk_rows: Annotated[int, Field(ge=1)] = Field(
        256,
        description="Samples per chunk, the unit of work and retry. Smaller repeats less after a kill; larger costs "
        "less overhead.",
    )
    image_column: str = Field("image", description="Parquet: column with bytes or a {bytes, path} struct.")
    id_column: str | None = Field(
        None, description="Column that identifies a sample; none: `shard/key` or `shard/row`."
    )
    uri_column: str = Field("uri", description="Manifest: column with the image's URI or path.")
    fetch: FetchConfig = FetchConfig()
    retry: RetryConfig = RetryConfig()
    passthrough: tuple[str, ...] = Field((), description="Columns (or JSON fields) copied to the results, as strings.")
    prompt: PromptConfig = PromptConfig()


class PreprocessConfig(Section):
    """Image bytes to RGB pixels, in CPU tasks."""

    max_pixels: Annotated[int, Field(ge=1)] = Field(
        64_000_000, description="Pixel-count cap against decompression bombs; larger images become errors rows."
    )
    duplicates_remembered: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Answers kept, by the image's sha256 and the prompt, for exact duplicates, which then get a copy "
        "without the engine; they take memory in one process. 0: every image is answered anew.",
    )
    decode_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0,
        description="Seconds the decoder may take for one image; one that takes longer ends its task, is found, and "
        "becomes an errors row. Larger is safer on slow machines, smaller loses less time.",
    )
    num_cpus: Annotated[float, Field(gt=0)] = Field(1.0, description="CPUs one preprocessing task reserves.")
    max_tasks: int | None = Field(None, description="Most preprocessing tasks at once; none: as many as fit.")


class ModelSection(Section):
    """Which weights, where and in which precision."""

    checkpoint: str = Field(description="Checkpoint directory (config.json, model.safetensors, tokenizer.json).")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when the actor sees one.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is faster on GPUs, not exact.")
    num_threads: int | None = Field(None, description="CPU threads per actor; none: the CPUs the actor reserves.")


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


class GenerationConfig(Section):
    """What a finished output looks like."""

    max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        64, description="Tokens after which an output is cut (finish_reason=length)."
    )
    min_new_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="End-of-sequence is not allowed before this many tokens."
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
        (), description="The same as token ids, without the start token; not together with decoder_prefix."
    )
    max_prefix_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Longest prefix of a request, in tokens; none: 32 where it holds `{prompt}`, else its length."
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


class EngineConfig(Section):
    """The regrouping engine inside each actor (DESIGN section 5)."""

    num_slots: Annotated[int, Field(ge=1)] = Field(
        32, description="Most sequences one visit to the decoder takes. Larger shares its fixed cost among more."
    )
    oversubscription: Annotated[float, Field(ge=1)] | None = Field(
        None,
        description="pool: sequences in flight for each of num_slots, so that shallow visits are full while deep "
        "queues fill; none: one for each exit, with which some queue is always full. More needs memory and delays "
        "results.",
    )
    max_cache_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Bytes all sequences in flight may take; fewer are then kept in flight. none: no limit."
    )
    calibration_s: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="pool: seconds spent at the start on measuring what visits cost, which says when a deep group is "
        "worth one; 0: assume that all layers cost the same and batches are free.",
    )
    schedule: Schedule = Field(Schedule.POOL, description="pool regroups by depth; full never exits early.")
    kv: KvPolicy = Field(KvPolicy.JIT, description="jit is exact; project and copy are the published approximations.")
    cross: CrossAttention = Field(
        CrossAttention.AUTO,
        description="projected: keys and values of the encoder states are computed once per layer and kept; absorbed: "
        "attention reads the encoder states, which pays for short outputs and needs less memory.",
    )
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
    max_wait_steps: Annotated[int, Field(ge=1)] = Field(
        32,
        description="Engine steps after which a waiting deep group runs however small. Larger: fuller "
        "deep batches, later results.",
    )
    encode_batch: Annotated[int, Field(ge=1)] = Field(16, description="Images encoded together.")
    encode_overlap: bool | Literal["auto"] = Field(
        "auto",
        description="Encode the next images while the decoder runs, on a thread and stream of its own; auto: on GPUs. "
        "On CPUs the two compete for the cores. Greedy outputs only.",
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

    @model_validator(mode="after")
    def _lossless_needs_jit(self) -> "EngineConfig":
        if self.lossless and self.kv is not KvPolicy.JIT:
            raise ValueError(f"lossless needs kv=jit, got kv={self.kv.value}: full depth must check real features")
        return self

    @model_validator(mode="after")
    def _beams_are_full_depth(self) -> "EngineConfig":
        if self.generation.num_beams > 1 and self.encode_overlap is True:
            raise ValueError("encode_overlap is for greedy outputs, set num_beams=1 or encode_overlap=auto")
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


class ActorsConfig(Section):
    """How many engines, and what each of them reserves."""

    num_actors: int | Literal["auto"] = Field(
        "auto", description="auto: one per GPU, or one per two CPUs without GPUs."
    )
    num_cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs an actor reserves.")
    num_gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs an actor reserves; fractions share a GPU.")
    chunks_in_flight: Annotated[int, Field(ge=1)] = Field(
        3, description="Chunks an actor works on at once, so that the engine does not drain between chunks."
    )


class RetryErrors(str, Enum):
    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


class OutputConfig(Section):
    """Where results go and what counts as failure."""

    path: str = Field(description="Output directory or URL.")
    on_existing: Literal["resume", "fail", "overwrite"] = Field(
        "resume", description="What to do with a directory that already holds this run."
    )
    retry_errors: RetryErrors = Field(
        RetryErrors.NONE,
        description="Rows that failed in an earlier run: none keeps them; transient tries those again that storage, "
        "the network or a dying worker may have caused; all tries every one. Costs their whole chunks.",
    )
    max_error_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of error rows (after the first 1,000 rows) above which the run stops."
    )


class CostConfig(Section):
    """Price of the hardware, entered by the user. Unknown stays unknown."""

    price_per_hour: float | None = Field(None, description="Price of all reserved hardware per hour, in `currency`.")
    currency: str = Field("USD", description="Currency of the price.")
    source: str | None = Field(None, description="Where the price was read.")
    date: str | None = Field(None, description="When it was read, YYYY-MM-DD.")

    @field_validator("date", mode="before")
    @classmethod
    def _date_as_text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads 2026-11-01 as a date


class JobConfig(Section):
    """One captioning or VQA run."""

    source: SourceConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelSection
    engine: EngineConfig = EngineConfig()
    actors: ActorsConfig = ActorsConfig()
    output: OutputConfig
    cost: CostConfig = CostConfig()
