"""Where the images of a job come from, and what is asked about them: the first section of conf/schema.py."""

from enum import Enum
from typing import Annotated, Any

from pydantic import Field, field_validator

from conf.section import Section
from conf.table import TableConfig
from conf.templates import parse_template


class SourceKind(str, Enum):
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    IMAGES = "images"
    MANIFEST = "manifest"


DEFAULT_PROMPT = "describe the image"  # no prompt at all to a model whose outputs go on from theirs


class PromptConfig(Section):
    """What the model is asked for every image."""

    template: str = Field(
        DEFAULT_PROMPT,
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
        description="Dotted name of a sample field with words found in the image and their boxes "
        "(pipeline/source/words_field.py); "
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
    chunk_bytes: Annotated[int, Field(ge=1)] = Field(
        256_000_000,
        description="Most bytes of pixels in a chunk, as the model reads them: where images are large, a chunk has "
        "fewer samples than chunk_rows.",
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
