"""A Hugging Face image folder: the images of a run copied from its source, with metadata.jsonl beside them.

An image that has several prompts has one line for each; `file_name` is then the same in all of them. metadata.jsonl
comes last: a folder without it is not finished.
"""

from collections.abc import Container, Iterator
from typing import Any

from conf.errors import UserError
from conf.source import SourceConfig
from pipeline.exports.file_names import flat, numbered, plain_path
from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, as_users_mistake, json_bytes, whole_file
from pipeline.output.storage import Storage
from pipeline.source.plan import MISSING_SHARD, LeftOut, Shard, sum_left_out
from pipeline.source.readers import Reader, ReadFailure, make_reader
from pipeline.source.readers.file_kinds import SNIFF_BYTES, image_format, is_image_name
from pipeline.source.source_types import to_json
from pipeline.text import finite

_GONE = (MISSING_SHARD, "missing_file")
_STEPS_NOT_COPIED = ("exit_layers", "confidences", "token_texts", "token_ids")


def write(published: Published, out: str, options: Options) -> Exported:
    reader = make_reader(SourceConfig.model_validate(published.source()))
    shards = published.output.shards(reader)
    folder, count, left_out = _Folder(Storage(out)), 0, list[LeftOut]()
    columns = [name for name in published.columns if name not in _STEPS_NOT_COPIED]
    with whole_file(f"{folder.storage.url}/metadata.jsonl") as metadata:
        for name in published.shards:
            rows: dict[str, list[dict[str, Any]]] = {}
            for row in published.rows(name, columns):
                rows.setdefault(row["key"], []).append(row)
            if name not in shards:
                if rows:
                    left_out.append(LeftOut("images_of_shards_gone", len(rows), (name,)))
                continue
            for key, found in _images(reader, shards[name], rows.keys()):
                own = rows.pop(key)
                if isinstance(found, str):
                    reason = "images_gone" if found in _GONE else f"images_with_{found}"
                    left_out.append(LeftOut(reason, 1, (f"{name}/{key}",)))
                    continue
                file_name = folder.add(name, key, found)
                for row in own:  # who loads the folder wants columns of one type, and the name of NaN is no number
                    line = {"file_name": file_name, **to_json(finite(row))}
                    metadata.write(json_bytes(line) + b"\n")
                    count += 1
            if rows:
                left_out.append(LeftOut("images_gone", len(rows), (f"{name}/{next(iter(rows))}",)))
        if left_out and not count:
            raise UserError(f"none of the images of {published.storage.url!r} can be read from its source any more")
    return Exported(count, sum_left_out(left_out))


def _images(reader: Reader, shard: Shard, keys: Container[str]) -> Iterator[tuple[str, bytes | str]]:
    """Yield the key and image of each sample, or the reason why the image cannot be read: a short fixed word."""
    samples = [sample for sample in reader.index(shard).samples if sample.key in keys]
    done = 0
    try:
        for raw in reader.read(shard, samples):
            done += 1
            yield raw.sample.key, raw.image if raw.image is not None else raw.error_type or "no_image"
    except ReadFailure:
        yield from ((sample.key, "storage_error") for sample in samples[done:])


class _Folder:
    """The images written so far, each under a name of its own."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._taken: set[str] = set()  # in one case: there are systems on which A.png is a.png

    def add(self, shard_name: str, key: str, data: bytes) -> str:
        """Write one image; its name, like the key but with the suffix of what the bytes are."""
        stem, dot, suffix = plain_path(key).rpartition(".")
        if not is_image_name(f"x.{suffix}"):
            form = image_format(data[:SNIFF_BYTES]) or "img"
            stem, suffix = f"{stem}{dot}{suffix}", {"JPEG2000": "jp2"}.get(form, form.lower())
        for path in (f"{shard_name}/{stem}", f"{shard_name}/{flat(stem)}"):
            name = self._free(path, f".{suffix}")
            try:
                with as_users_mistake(self.storage.url):
                    self.storage.write(name, data)
                return name
            except OSError:  # a name that this system does not take, or that is a folder's; the second one is neither
                if path != f"{shard_name}/{stem}":
                    raise
        raise AssertionError("unreachable")

    def _free(self, stem: str, suffix: str) -> str:
        name = next(name for name in numbered(stem, suffix) if name.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return name
