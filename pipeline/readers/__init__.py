"""One reader per kind of source, all of one form (reader.py)."""

from conf.schema import SourceConfig, SourceKind
from conf.templates import parse_template
from pipeline.readers.reader import FirstFields, RawSample, Reader, ReadFailure, read_patiently

__all__ = ["FirstFields", "RawSample", "ReadFailure", "Reader", "field_names", "make_reader", "read_patiently"]


def make_reader(source: SourceConfig) -> Reader:
    """The reader of a source's kind."""
    from pipeline.readers.images import ImageFolderReader
    from pipeline.readers.manifest import ManifestReader
    from pipeline.readers.parquet import ParquetReader
    from pipeline.readers.webdataset import WebDatasetReader

    fields = field_names(source)
    if source.kind is SourceKind.WEBDATASET:
        suffixes = tuple(suffix.lower().lstrip(".") for suffix in source.image_suffix)
        return WebDatasetReader(source.paths, fields, source.retry, source.max_bytes, suffixes)
    if source.kind is SourceKind.IMAGES:
        return ImageFolderReader(source.paths, fields, source.retry, source.max_bytes)
    if source.kind is SourceKind.PARQUET:
        return ParquetReader(source.paths, source.image_column, fields, source.retry, source.max_bytes, source.fetch)
    return ManifestReader(source.paths, source.uri_column, fields, source.fetch, source.retry, source.table)


def field_names(source: SourceConfig) -> tuple[str, ...]:
    """The fields needed beside the image, "*" for all; what is not named here is never fetched."""
    prompt = source.prompt
    asked = parse_template(prompt.template).names
    words = () if prompt.words_field is None else (prompt.words_field.partition(".")[0], "image_size")
    named = (*source.passthrough, source.id_column, prompt.list_field, prompt.limit_field, *asked, *words)
    return tuple(dict.fromkeys(name for name in named if name))
