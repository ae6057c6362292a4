"""WebDataset sidecars: for each input shard a tar with the same keys in the same order, to be read beside the original.

A sample has `key.deed.txt` (the text of its first prompt) and `key.deed.json` (all its prompts, texts, confidences
and fields); the suffix keeps them apart from the original's members when both are put together. A key that would lead
out of a folder when the tar is unpacked is percent-encoded.
"""

import io
import itertools
import json
import posixpath
import tarfile
from typing import Any

from conf.errors import UserError
from pipeline.exports.file_names import member_name
from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, json_bytes, whole_file
from pipeline.text import original

_COLUMNS = (
    "key",
    "sample_id",
    "prompt_index",
    "prompt",
    "text",
    "mean_confidence",
    "mean_depth",
    "num_tokens",
    "fields",
)


def write(published: Published, out: str, options: Options) -> Exported:
    if "/" in options.suffix or options.suffix.startswith("."):
        raise UserError(f"a suffix goes between key and type, like deed in key.deed.txt; got {options.suffix!r}")
    infix = f".{options.suffix}" if options.suffix else ""
    count, renamed = 0, 0
    for shard in published.shards:
        with (
            whole_file(posixpath.join(out, f"{shard}.tar")) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            rows = published.rows(shard, _COLUMNS)
            for key, group in itertools.groupby(rows, lambda row: row["key"]):
                answers: list[dict[str, Any]] = [dict(row) for row in group]
                sample_id = answers[0]["sample_id"]
                for answer in answers:
                    del answer["key"], answer["sample_id"]
                    if (fields := answer.pop("fields")) is not None:
                        answer["fields"] = json.loads(fields)
                member = member_name(key)
                renamed += member != original(key)
                _add(tar, f"{member}{infix}.txt", answers[0]["text"].encode())
                content = {"sample_id": sample_id, "answers": answers}
                _add(tar, f"{member}{infix}.json", json_bytes(content))
                count += len(answers)
    notes = (f"{renamed} keys that no archive should hold are percent-encoded",) if renamed else ()
    return Exported(count, notes=notes)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
