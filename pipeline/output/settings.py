"""The guard that keeps two configurations apart: an output is only continued with settings that give the same rows.

Every field of the configuration is part of that, unless it is listed here as one of speed, place or price.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from conf.checkpoint_info import CheckpointInfo
from conf.errors import OtherOutput, UserError
from conf.schema import JobConfig
from pipeline.output.publish import published_shards
from pipeline.output.storage import Storage

CONFIG_NAME = "_state/config.json"
_TABLE_VERSION = 1  # raise it when the meaning of a results column changes

NOT_CONTENT = frozenset(  # fields and whole sections that change no row, only when, where and at what price it is made
    {
        "source.paths",  # shards may be added; one that was replaced is noticed (pipeline.output.ledger.check_plan)
        "source.chunk_rows",
        "source.chunk_bytes",
        "source.table.max_record_bytes",  # as source.fetch
        "source.fetch",  # which images can be had; rows that failed may be retried under other limits
        "source.max_bytes",  # as source.fetch
        "source.max_prompts",  # as source.fetch
        "source.check_rows",
        "source.retry",
        "preprocess.max_pixels",  # as source.fetch
        "preprocess.max_decode_bytes",  # as source.fetch
        "preprocess.duplicates_remembered",
        "preprocess.decode_timeout_s",
        "preprocess.num_cpus",
        "preprocess.max_tasks",
        "model.checkpoint",  # what is in it counts, by its hashes
        "model.device",
        "model.guarantee",  # its thresholds count
        "model.num_threads",
        "engine.num_slots",
        "engine.tuning",
        "actors",
        "audit.on_broken_promise",  # which may be asked for where a run was stopped
        "output",
        "cost",
    }
)


def content_settings(config: JobConfig, info: CheckpointInfo) -> dict[str, Any]:
    """Return every setting that can change the content of a results row, by its dotted name.

    `config` with the checkpoint's exits and thresholds filled in (conf.resolve).
    """
    return {
        **dict(_content(JobConfig, config)),
        "model.weights_sha256": info.weights_sha256,
        "model.architecture_sha256": info.architecture_sha256,
        "preprocess.image_size": info.model.image_size,
        "table_version": _TABLE_VERSION,
    }


def settings_hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_settings(storage: Storage, settings: Mapping[str, Any]) -> None:
    """Raise OtherOutput if the output was begun with settings that would have given other rows; writes nothing.

    A field that did not exist then counts as having had its default.
    """
    try:
        before = json.loads(storage.read(CONFIG_NAME))["settings"]
    except FileNotFoundError:
        if published_shards(storage):
            raise UserError(
                f"output {storage.url!r} holds results that are not of a run of this tool; choose another output.path"
            ) from None
        return
    before = {**dict(_content(JobConfig)), **{key: value for key, value in before.items() if not _is_free(key)}}
    changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if changed:
        details = "; ".join(f"{key} was {_short(before.get(key))}, now {_short(settings.get(key))}" for key in changed)
        raise OtherOutput(f"output {storage.url!r} was made with another configuration ({details})")


def save_settings(storage: Storage, settings: Mapping[str, Any]) -> None:
    content = {"settings_hash": settings_hash(settings), "settings": settings}
    storage.write(CONFIG_NAME, json.dumps(content, indent=2).encode())


def _content(schema: type[BaseModel], values: BaseModel | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each field that counts, in JSON's types; without `values`, of those with a default."""
    for name, field in schema.model_fields.items():
        key, inner = prefix + name, field.annotation
        if key in NOT_CONTENT:
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _content(inner, None if values is None else getattr(values, name), f"{key}.")
        elif values is not None:
            yield key, _plain(getattr(values, name))
        elif not field.is_required():
            yield key, _plain(field.get_default(call_default_factory=True))


def _is_free(key: str) -> bool:
    """Whether a field, or a section it is in, changes no row; an earlier version may have thought that it does."""
    return any(key == name or key.startswith(f"{name}.") for name in NOT_CONTENT)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
