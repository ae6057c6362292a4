"""What a job must know of a checkpoint before any weights are loaded. Nothing here imports torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from conf.errors import UserError
from conf.json_file import parse_json, read_json
from conf.model import TOKENIZER_FILE, WEIGHTS_FILE, read_model_config, weights_sha256
from conf.schema import EngineConfig, Gate, Schedule

_NOT_ARCHITECTURE = {"name", "exits", "untrained_exits", "thresholds", "gate_thresholds"}
_MAX_HEADER_BYTES = 100_000_000  # as in the format's own reader


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Identity and limits of a checkpoint."""

    image_size: int
    num_layers: int
    exits: tuple[int, ...]
    thresholds: tuple[float, ...] | None  # calibrated, one per exit but the last
    weights_sha256: str
    architecture_sha256: str  # of everything else in config.json that can change an output
    max_new_tokens: int
    gates: bool = False  # learned exit gates are there
    gate_thresholds: tuple[float, ...] | None = None
    untrained_exits: tuple[int, ...] = ()
    max_prompt_tokens: int = 0  # 0: not known


def read_checkpoint_info(path: str) -> CheckpointInfo:
    """Read config.json and hash the weights; UserError in one sentence on anything wrong."""
    config = read_model_config(path)
    _check_files(Path(path))
    architecture = config.model_dump(mode="json", exclude=_NOT_ARCHITECTURE)
    return CheckpointInfo(
        image_size=config.image_size,
        num_layers=config.decoder.num_layers,
        exits=config.exits,
        thresholds=config.thresholds,
        weights_sha256=weights_sha256(path),
        architecture_sha256=hashlib.sha256(json.dumps(architecture, sort_keys=True).encode()).hexdigest(),
        max_new_tokens=config.decoder.max_positions,
        gates=config.gates,
        gate_thresholds=config.gate_thresholds,
        untrained_exits=config.untrained_exits,
        max_prompt_tokens=config.encoder.max_prompt_tokens,
    )


def _check_files(path: Path) -> None:
    """UserError if weights or tokenizer are cut or no such file: the actors would say it later and less clearly."""
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


def resolve_engine(engine: EngineConfig, info: CheckpointInfo) -> EngineConfig:
    """The engine settings with the checkpoint's choices filled in; UserError where the two do not fit."""
    exits = engine.exits if engine.exits is not None else info.exits
    strangers = [layer for layer in exits if layer not in info.exits]
    if strangers:
        raise UserError(f"engine.exits {list(exits)} must be among the checkpoint's exits {list(info.exits)}")
    if exits[-1] != info.num_layers:
        raise UserError(f"engine.exits {list(exits)} must end with the full depth, {info.num_layers}")
    limit = engine.generation.max_new_tokens
    if limit > info.max_new_tokens:
        raise UserError(f"engine.generation.max_new_tokens={limit} is more than the checkpoint's {info.max_new_tokens}")
    prefix = engine.generation.longest_prefix
    if limit + prefix > info.max_new_tokens:
        raise UserError(
            f"engine.generation.max_new_tokens={limit} with a prefix of {prefix} tokens is more than the checkpoint's "
            f"{info.max_new_tokens}"
        )
    if engine.gate is Gate.CLASSIFIER and engine.schedule is not Schedule.FULL and not info.gates:
        raise UserError(
            "engine.gate=classifier needs a checkpoint with learned gates; deed train, mode=frozen, adds them"
        )
    thresholds = engine.thresholds
    own = info.gate_thresholds if engine.gate is Gate.CLASSIFIER else info.thresholds
    if thresholds is None and own is not None:
        calibrated = dict(zip(info.exits[:-1], own, strict=True))
        thresholds = tuple(calibrated[layer] for layer in exits[:-1])
    if thresholds is None and engine.schedule is not Schedule.FULL and len(exits) > 1:
        raise UserError(
            "the checkpoint has no calibrated thresholds; give engine.thresholds or set engine.schedule=full"
        )
    if thresholds is not None and len(thresholds) != len(exits) - 1:
        raise UserError(
            f"engine.thresholds must have one value per exit but the last, got {len(thresholds)} for {list(exits)}"
        )
    return engine.model_copy(update={"exits": exits, "thresholds": thresholds})


def untrained_exits_warning(engine: EngineConfig, info: CheckpointInfo) -> str | None:
    """One sentence if tokens may leave at exits nothing has trained; None where full depth has the last word.

    `engine` as `resolve_engine` gives it.
    """
    if engine.schedule is Schedule.FULL or engine.lossless or engine.exits is None:
        return None
    reachable = [e for e, t in zip(engine.exits, engine.thresholds or (), strict=False) if t <= 1]
    guesses = [layer for layer in reachable if layer in info.untrained_exits]
    if not guesses:
        return None
    return (
        f"exits {guesses} of the checkpoint are untrained, tokens that leave there are guesses; train them with deed "
        "train and mode=frozen, or set engine.schedule=full"
    )
