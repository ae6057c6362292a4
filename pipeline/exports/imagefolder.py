"""A Hugging Face image folder: the images of a run copied from its source, with metadata.jsonl beside them.

An image that has several prompts has one line for each; `file_name` is then the same in all of them.
"""

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

from conf.errors import UserError
from conf.schema import SourceConfig
from pipeline.exports import Options
from pipeline.exports.rows import Published, whole_file
from pipeline.ledger import known_shards
from pipeline.plan import Shard
from pipeline.readers import Reader, make_reader
from pipeline.storage import Storage

_UNSAFE = re.compile(r"[^A-Za-z0-9._/-]+")
_KNOWN_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif)$", re.IGNORECASE)


def write(published: Published, out: str, options: Options) -> int:
    record = published.record()
    if record is None:
        raise UserError(f"{published.storage.url!r} has no run.json, which says where the images are")
    reader = make_reader(SourceConfig.model_validate(record["config"]["source"]))
    known = known_shards(published.storage).values()
    shards = {shard.name: shard for shard in reader.shards(known).shards}
    target, count = Storage(out), 0
    columns = [name for name in published.columns if name not in ("exit_layers", "confidences", "token_texts")]
    with whole_file(f"{target.url}/metadata.jsonl") as metadata:
        for name in published.shards:
            if name not in shards:
                raise UserError(f"shard {name!r} of this run is no longer in its source")
            by_key: dict[str, list[dict[str, Any]]] = {}
            for row in published.rows(name, columns):
                by_key.setdefault(row["key"], []).append(row)
            taken: set[str] = set()
            for key, data in _images(reader, shards[name], by_key.keys()):
                file_name = f"{name}/{_file_name(key, data, taken)}"
                target.write(file_name, data)
                for row in by_key.pop(key):
                    metadata.write(json.dumps({"file_name": file_name, **row}, ensure_ascii=False).encode() + b"\n")
                    count += 1
            if by_key:
                raise UserError(
                    f"{len(by_key)} images of shard {name!r} can no longer be read, {next(iter(by_key))} first"
                )
    return count


def _images(reader: Reader, shard: Shard, keys: Any) -> Iterator[tuple[str, bytes]]:
    samples = [sample for sample in reader.index(shard).samples if sample.key in keys]
    for raw in reader.read(shard, samples):
        if raw.image is not None:
            yield raw.sample.key, raw.image


def _file_name(key: str, data: bytes, taken: set[str]) -> str:
    """The key as a file name that every system can hold, with the suffix of what the bytes are; each given out once."""
    stem, dot, suffix = _UNSAFE.sub("_", key).replace("../", "_").lstrip("/.").rpartition(".")
    if not _KNOWN_SUFFIX.search(dot + suffix):
        stem = f"{stem}{dot}{suffix}"
        with Image.open(io.BytesIO(data)) as image:
            suffix = (image.format or "img").lower()
    name = f"{stem}.{suffix}"
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}~{number}.{suffix}"
    taken.add(name)
    return name
