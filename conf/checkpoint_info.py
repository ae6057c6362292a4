"""What a job must know of a checkpoint before any weights are loaded. Nothing here imports torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.checkpoint_files import (
    CONFIG_FILE,
    QFORMER_TOKENIZER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    read_model_config,
    weights_sha256,
)
from conf.earlier_checkpoints import in_words_of
from conf.errors import UserError
from conf.guarantee import Guarantee
from conf.json_file import parse_json, read_json
from conf.model import ModelConfig

_NOT_ARCHITECTURE = {"name", "exits", "untrained_exits", "thresholds", "gate_thresholds", "points_lost"}
# Left out of the hash at their defaults, so that it is what it was before they were there.
_ADDED_LATER = (
    "image_plan", "prefix_starts", "text.words_end_ids", "text.qformer", "text.decoder_prefix",
    "text.keep_special_tokens", "text.structure", "text.image", "decoder.merged", "decoder.logit_softcap",
    "decoder.token_types", "decoder.head_transform", "decoder.relative_bias_per_layer",
    "generation.min_new_tokens", "generation.banned_ids", "generation.other_end_ids",
)  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000  # as in the format's own reader


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Architecture and identity of a checkpoint, and what a run may promise of it (conf/promise.py)."""

    model: ModelConfig
    weights_sha256: str
    architecture_sha256: str  # of everything in config.json that can change an output and is no setting
    promise: Guarantee | None = None  # that the run keeps, and is audited by
    unclaimed: str | None = None  # why a guarantee that is there says nothing about the run, in one sentence


def read_checkpoint_info(path: str) -> CheckpointInfo:
    """Read config.json and hash the weights; UserError in one sentence on anything wrong."""
    model = read_model_config(path)
    _check_files(Path(path), model)
    architecture = model.model_dump(mode="json", exclude=_NOT_ARCHITECTURE)
    for name in _ADDED_LATER:
        _drop_default(architecture, model, name)
    architecture = in_words_of(read_json(Path(path) / CONFIG_FILE, "checkpoint config"), architecture)
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode()).hexdigest()
    return CheckpointInfo(model, weights_sha256(path), digest)


def _check_files(path: Path, model: ModelConfig) -> None:
    """Raise UserError if weights or tokenizer are cut or unreadable: actors would say so later and less clearly."""
    weights = path / WEIGHTS_FILE
    try:
        with open(weights, "rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = parse_json(stream.read(min(header_bytes, _MAX_HEADER_BYTES)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected_bytes = 8 + header_bytes + max(ends, default=0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"weights {str(weights)!r} are not readable safetensors") from None
    if weights.stat().st_size != expected_bytes:
        raise UserError(
            f"weights {str(weights)!r} have {weights.stat().st_size} bytes instead of {expected_bytes}; "
            "the file was cut or damaged"
        )
    read_json(path / TOKENIZER_FILE, "tokenizer")
    if model.text.qformer:
        read_json(path / QFORMER_TOKENIZER_FILE, "tokenizer")


def _drop_default(dumped: dict[str, Any], model: ModelConfig, name: str) -> None:
    """Remove a field, by its dotted name, where it has its default value."""
    section: Any = model
    *outer, field = name.split(".")
    for part in outer:
        section, dumped = getattr(section, part), dumped[part]
    if getattr(section, field) == type(section).model_fields[field].get_default(call_default_factory=True):
        del dumped[field]
