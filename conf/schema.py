"""Frozen configuration of the batch job, one model per stage in the order the data flows.

Every field says its unit and which way to turn it. Unknown keys are errors. Nothing here imports torch or ray.
"""

import itertools
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from conf.engine import CrossAttention as CrossAttention
from conf.engine import EngineConfig as EngineConfig
from conf.engine import Gate as Gate
from conf.engine import GenerationConfig as GenerationConfig
from conf.engine import KvPolicy as KvPolicy
from conf.engine import Schedule as Schedule
from conf.engine import Weights as Weights
from conf.section import Section as Section
from conf.table import TableConfig as TableConfig
from conf.templates import parse_template


class SourceKind(str, Enum):
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    IMAGES = "images"
    MANIFEST = "manifest"


class PromptConfig(Section):
    """What the model is asked for every image."""

    template: str = Field(
        "describe the image",
        description="Prompt text; `{column}` is replaced by that column (or JSON field) of the sample, a text or a "
        "number; `{{` and `}}` are braces.",
    )
    list_field: str | None = Field(
        None,
        description="Name of a sample field that holds a list of prompts, one row each: texts, or objects one of whose "
        "keys the template names.",
    )
    limit_field: str | None = Field(
        None,
        description="Name of a sample field, or of one beside a prompt of list_field, with the most tokens its output "
        "may have; where it is missing or larger, engine.generation.max_new_tokens holds.",
    )
    words_field: str | None = Field(
        None,
        description="Dotted name of a sample field with words found in the image and their boxes (pipeline/words.py); "
        "added to the prompt, for models that read them.",
    )

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        parse_template(value)
        return value


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
        30.0,
        description="Seconds one try for one image may take, from the first byte sent to the last received, redirects "
        "included.",
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(
        100_000_000, description="Larger images become errors rows and are not read to their end."
    )
    schemes: tuple[str, ...] = Field(
        ("https", "http", "s3", "gs", "az", "abfs", "hf", "file", "data"),
        description="Schemes a URI may have; file is a path. Leave file out where others write the manifest.",
    )
    user_agent: str | None = Field(
        None, description="http(s): what we are called in requests and in robots rules; none: deed-pipeline/VERSION."
    )
    contact: str | None = Field(
        None,
        description="http(s): URL or mail address of who runs this, added to the User-Agent; servers that are asked "
        "often want to know.",
    )
    headers: dict[str, str] = Field(
        {},
        description="http(s): further headers. ${NAME} in a value is the environment variable of the worker, so that "
        "no secret gets into run.json. Authorization and Cookie do not follow redirects to other hosts.",
    )
    per_host_per_s: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="http(s): most requests a second that one preprocessing task sends to one host (all of them: times "
        "preprocess.max_tasks). None: no limit.",
    )
    per_host_concurrent: Annotated[int, Field(ge=1)] | None = Field(
        None, description="http(s): most requests one preprocessing task has under way at one host. None: no limit."
    )
    robots: bool = Field(
        True,
        description="http(s): images whose answer has an X-Robots-Tag of noai, noimageai, noindex, noimageindex or "
        "none, for all or for our name, become errors rows. False: the header is ignored.",
    )

    @field_validator("user_agent", "contact", "headers")
    @classmethod
    def _on_one_line(cls, value: Any) -> Any:
        texts = [*value, *value.values()] if isinstance(value, dict) else [value or ""]
        if any(not text.isprintable() for text in texts):
            raise ValueError("must be on one line, without control characters")
        return value


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
    image_suffix: tuple[str, ...] = Field(
        (),
        description="WebDataset: which image of a key is wanted where it has several, the first of these suffixes that "
        "it has (left.jpg, jpg). None: key.jpg without its companions (key.mask.png); without it, each for itself.",
    )
    image_column: str = Field(
        "image",
        description="Parquet: column with bytes or {bytes, path} structs, or with lists of either: then each image "
        "is a row of its own.",
    )
    id_column: str | None = Field(
        None, description="Column that identifies a sample; none: `shard/key` or `shard/row`."
    )
    uri_column: str = Field("uri", description="Manifest: column with the image's URI or path.")
    max_bytes: Annotated[int, Field(ge=1)] = Field(
        500_000_000,
        description="Larger image files, or members of an archive, become errors rows and are not read (in Parquet: "
        "not decoded); manifests: see fetch.max_bytes.",
    )
    table: TableConfig = TableConfig()
    fetch: FetchConfig = FetchConfig()
    retry: RetryConfig = RetryConfig()
    passthrough: tuple[str, ...] = Field(
        (),
        description="Columns (or JSON fields) copied to the results as src_NAME, typed as in the source, else as text.",
    )
    prompt: PromptConfig = PromptConfig()
    check_rows: Annotated[int, Field(ge=0)] = Field(
        256,
        description="Rows of a few shards that are looked at before a run begins, for fields that the configuration "
        "names and none of them has. 0: none, where such fields come later.",
    )
    max_prompts: Annotated[int, Field(ge=1)] = Field(
        1_000_000,
        description="Most prompts of one image; an image with more becomes an errors row. Each prompt is a row, and "
        "those of one image are committed together.",
    )


class PreprocessConfig(Section):
    """Image bytes to RGB pixels, in CPU tasks."""

    max_pixels: Annotated[int, Field(ge=1)] = Field(
        256_000_000,
        description="Most pixels that are decoded of one image; larger images become errors rows. JPEGs are decoded at "
        "1/2, 1/4 or 1/8 where that is large enough for the model, and count as what is decoded.",
    )
    max_decode_bytes: Annotated[int, Field(ge=1)] = Field(
        1_500_000_000,
        description="Most bytes of memory that decoding one image may take, by its header; images that would take more "
        "become errors rows. Lower it where tasks share little memory.",
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
    num_cpus: Annotated[float, Field(gt=0)] = Field(
        0.5,
        description="CPUs one preprocessing task reserves. With two tasks a CPU, one works while the other waits for "
        "its next chunk; more takes less memory.",
    )
    max_tasks: int | None = Field(None, description="Most preprocessing tasks at once; none: as many as fit.")


class ModelSection(Section):
    """Which weights, where and in which precision."""

    checkpoint: str = Field(description="Checkpoint directory (config.json, model.safetensors, tokenizer.json).")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when the actor sees one.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is faster on GPUs, not exact.")
    num_threads: int | None = Field(None, description="CPU threads per actor; none: the CPUs the actor reserves.")


class ActorsConfig(Section):
    """How many engines, where, and what each of them reserves."""

    num_actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Engines at the start. auto: one per GPU, or one per two CPUs without GPUs."
    )
    min_actors: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Fewest engines; what is above them is given back when there is too little for them to do. None: "
        "none is, except, without GPUs, where a node is lost and preprocessing needs their CPUs.",
    )
    max_actors: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Most engines, for clusters that grow: more are started, and nodes asked for, while all are busy. "
        "None: num_actors.",
    )
    num_cpus: Annotated[float, Field(ge=0)] = Field(1.0, description="CPUs an actor reserves.")
    num_gpus: Annotated[float, Field(ge=0)] = Field(
        0.0, description="GPUs an actor reserves; fractions (0.5, 0.25) share a GPU, above 1 only whole ones."
    )
    accelerator_type: str | None = Field(
        None, description="Only on nodes with this accelerator, as Ray names it: H100, A100-80G, L4, T4 and so on."
    )
    label_selector: dict[str, str] = Field(
        {},
        description="Only on nodes with these labels, for example {ray.io/market-type: spot}; values may be negated "
        "(!spot) or a list (in(a,b)).",
    )
    chunks_in_flight: Annotated[int, Field(ge=1)] = Field(
        3, description="Chunks an actor works on at once, so that the engine does not drain between chunks."
    )

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"must be a fraction of one GPU or a whole number of them, got {value:g}")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "ActorsConfig":
        given = [
            (name, value)
            for name in ("min_actors", "num_actors", "max_actors")
            if isinstance(value := getattr(self, name), int)
        ]
        for (low, fewer), (high, more) in itertools.pairwise(given):
            if fewer > more:
                raise ValueError(f"{low}={fewer} is more than {high}={more}")
        return self


class RetryErrors(str, Enum):
    NONE = "none"
    TRANSIENT = "transient"
    ALL = "all"


def how_to_continue(on_existing: str) -> str:
    """What to do with a run that was stopped, for its output.on_existing."""
    if on_existing == "resume":
        return "run the same command again to continue"
    instead = "begins anew" if on_existing == "overwrite" else "refuses"
    return (
        "run the same command with output.on_existing=resume to continue "
        f"(with {on_existing}, as it was given, it {instead})"
    )


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

    @property
    def to_continue(self) -> str:
        """What to do with a run that was stopped."""
        return how_to_continue(self.on_existing)


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
