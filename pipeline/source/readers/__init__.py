"""One reader per kind of source, all of one form (reader.py)."""

from collections.abc import Callable

from conf.source import SourceConfig, SourceKind
from conf.templates import parse_template
from pipeline.source.readers.reader import FirstFields, RawSample, Reader, ReadFailure, read_patiently

__all__ = ["FirstFields", "RawSample", "ReadFailure", "Reader", "field_names", "make_reader", "read_patiently"]


def make_reader(source: SourceConfig) -> Reader:
    """Return the reader of a source's kind."""
    from pipeline.source.readers.images import ImageFolderReader
    from pipeline.source.readers.manifest import ManifestReader
    from pipeline.source.readers.parquet import ParquetReader
    from pipeline.source.readers.webdataset import WebDatasetReader

    fields = field_names(source)
    usual = fields, source.retry, source.max_bytes
    suffixes = tuple(suffix.lower().lstrip(".") for suffix in source.image_suffix)
    readers: dict[SourceKind, Callable[[], Reader]] = {
        SourceKind.WEBDATASET: lambda: WebDatasetReader(source.paths, *usual, suffixes),
        SourceKind.IMAGES: lambda: ImageFolderReader(source.paths, *usual),
        SourceKind.PARQUET: lambda: ParquetReader(source.paths, source.image_column, *usual, source.fetch),
        SourceKind.MANIFEST: lambda: ManifestReader(
            source.paths, source.uri_column, fields, source.fetch, source.retry, source.table
        ),
    }
    return readers[source.kind]()


def field_names(source: SourceConfig) -> tuple[str, ...]:
    """Return the fields needed beside the image, "*" for all; what is not named here is never fetched."""
    prompt = source.prompt
    asked = parse_template(prompt.template).names
    words = () if prompt.words_field is None else (prompt.words_field.partition(".")[0], "image_size")
    named = (*source.passthrough, source.id_column, prompt.list_field, prompt.limit_field, *asked, *words)
    return tuple(dict.fromkeys(name for name in named if name))
