"""How text tables are written: manifests, and the metadata of folders."""

import codecs
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from conf.section import Section


class TableConfig(Section):
    """The dialect of a CSV, TSV, JSON or list file; what is not set is told by the file's name and first bytes."""

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "txt", "parquet"] = Field(
        "auto",
        description="auto: by the suffix, below that of a compression. json: an array of objects, or an object a line; "
        "txt: one URI or path a line.",
    )
    delimiter: str | None = Field(
        None, description="CSV, TSV: the character between cells. None: a comma, for TSV a tab."
    )
    quoting: bool | None = Field(
        None,
        description="CSV, TSV: whether cells may stand in double quotes, and then hold delimiters and line breaks. "
        "None: for CSV, not for TSV, where a quote is a letter like others.",
    )
    columns: tuple[str, ...] | None = Field(
        None, description="CSV, TSV: names of the columns. None: the first line has them."
    )
    header: bool | None = Field(
        None,
        description="CSV, TSV: whether the first line has names (which `columns` replaces) and not data. None: it has, "
        "unless `columns` is set.",
    )
    encoding: str = Field(
        "auto",
        description="As Python names it: utf-8, utf-16, latin-1, cp1252 and so on. auto: by the byte order mark, UTF-8 "
        "without one.",
    )
    max_record_bytes: Annotated[int, Field(ge=1)] = Field(
        16 << 20,
        description="Longer records become errors rows and are not read; raise it for data: URIs of large images. "
        "Costs up to 20 times as much memory.",
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f"must be one character, and no quote or line break, got {value!r}")
        return value

    @field_validator("columns")
    @classmethod
    def _different(cls, value: Any) -> Any:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError(f"must be different names, at least one, got {list(value)}")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "auto":
            return value
        try:
            text = codecs.lookup(value)._is_text_encoding
        except LookupError:
            text = False
        if not text:
            raise ValueError(f"{value!r} is no text encoding that Python knows")
        return value

    @model_validator(mode="after")
    def _has_names(self) -> "TableConfig":
        if self.header is False and self.columns is None:
            raise ValueError("without a header the columns need names: set columns, for example '[caption, uri]'")
        return self
