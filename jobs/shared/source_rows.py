"""Back from rows of a run to the samples they were made of: images for previews, fields for references."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from conf.errors import UserError
from conf.load import explain
from conf.source import SourceConfig
from pipeline.output.output import Output
from pipeline.report.folder import RunFolder
from pipeline.source.plan import Sample, Shard
from pipeline.source.readers import RawSample, Reader, ReadFailure, make_reader
from pipeline.source.references import Reference, reference_of

if TYPE_CHECKING:
    from PIL import Image

_MOST_SHARDS = 64  # finding a sample means listing its shard
_PREVIEW_PX, _PREVIEW_QUALITY = 320, 80
SampleKey = tuple[str, str]  # shard name, key in the shard


def read_samples(folder: RunFolder, wanted: Iterable[SampleKey]) -> Iterator[tuple[SampleKey, RawSample]]:
    """Yield the wanted samples that can still be found in the source of a run, shard by shard.

    Of more than 64 shards the first ones are read. A source that has moved or is of another kind gives nothing, and a
    line on stderr.
    """
    by_shard: dict[str, set[str]] = {}
    for shard_name, key in wanted:
        by_shard.setdefault(shard_name, set()).add(key)
    if not by_shard:
        return
    record = folder.read_record()
    if record is None:
        print("no previews and references: there is no run.json yet, which says where the source is", file=sys.stderr)
        return
    source = (record.get("config") or {}).get("source") or {}
    try:
        config = SourceConfig.model_validate({**source, "passthrough": ("*",)})  # any field: JSON and text are read too
        reader = make_reader(config)
        shards = Output(folder.storage).shards(reader)
    except (UserError, ValueError, OSError) as error:
        error = UserError(explain(error, SourceConfig)) if isinstance(error, ValidationError) else error
        print(f"the source cannot be read for previews and references: {error}", file=sys.stderr)
        return
    for shard_name in sorted(by_shard.keys() & shards.keys())[:_MOST_SHARDS]:
        yield from _read_shard(reader, shards[shard_name], by_shard[shard_name])


def _read_shard(reader: Reader, shard: Shard, keys: set[str]) -> Iterator[tuple[SampleKey, RawSample]]:
    samples: list[Sample] = [sample for sample in reader.index(shard).samples if sample.key in keys]
    try:
        for raw in reader.read(shard, samples):
            yield (shard.name, raw.sample.key), raw
    except ReadFailure as error:
        print(f"{shard.name}: no previews and references: {error}", file=sys.stderr)


def find_references(
    folder: RunFolder, wanted: Sequence[SampleKey], field: str | None = None
) -> dict[SampleKey, Callable[[str | None], Reference | None]]:
    """Return what is right for a prompt, per sample that was found (pipeline.report.build.FindReferences)."""
    return {key: partial(_reference_for_prompt, raw.fields, field) for key, raw in read_samples(folder, wanted)}


def _reference_for_prompt(fields: Mapping[str, Any], field: str | None, prompt: str | None) -> Reference | None:
    return reference_of(fields, prompt, field)


def find_thumbnails(folder: RunFolder, wanted: Sequence[SampleKey]) -> dict[SampleKey, bytes]:
    """Return small JPEGs of the samples that were found and can be decoded (pipeline.report.build.FindThumbnails)."""
    found = ((key, thumbnail(raw.image)) for key, raw in read_samples(folder, wanted) if raw.image)
    return {key: data for key, data in found if data is not None}


def thumbnail(data: bytes) -> bytes | None:
    """Return a JPEG of at most 320 pixels a side; None for bytes that are no readable image."""
    from pipeline.images.decode import ImageProblem, decode_upright

    decoded = decode_upright(data, _shrunk, result=_PREVIEW_PX)
    if isinstance(decoded, ImageProblem):
        return None
    stream = io.BytesIO()
    decoded.rgb.save(stream, "JPEG", quality=_PREVIEW_QUALITY)
    return stream.getvalue()


def _shrunk(image: "Image.Image") -> "Image.Image":
    image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    return image
