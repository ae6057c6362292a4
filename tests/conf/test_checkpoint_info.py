"""The engine's settings and the checkpoint's must fit; what the checkpoint knows is filled in."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from conf.checkpoint_info import CheckpointInfo, read_checkpoint_info, resolve_engine, untrained_exits_warning
from conf.errors import UserError
from conf.schema import EngineConfig
from tests.integration.corpus import write_checkpoint


def info(**changes: Any) -> CheckpointInfo:
    base: dict[str, Any] = {
        "image_size": 32,
        "num_layers": 8,
        "exits": (2, 4, 8),
        "thresholds": (0.9, 0.8),
        "weights_sha256": "w",
        "architecture_sha256": "a",
        "max_new_tokens": 96,
    }
    return CheckpointInfo(**{**base, **changes})


def resolve(settings: dict[str, Any], **changes: Any) -> EngineConfig:
    return resolve_engine(EngineConfig.model_validate(settings), info(**changes))


def test_a_checkpoint_is_read_without_loading_it(tmp_path: Path) -> None:
    found = read_checkpoint_info(str(write_checkpoint(tmp_path)))
    assert (found.image_size, found.num_layers, found.exits, found.thresholds) == (32, 8, (2, 4, 6, 8), (0.9, 0.9, 0.9))
    assert found.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "is not readable"),
        ("config.json", b"[" * 200_000, "nested too deeply"),
        ("config.json", b'{"image_size": ' + b"9" * 5000 + b"}", "not readable JSON: Exceeds the limit"),
        ("config.json", b"\xff{}", "not readable JSON"),
        ("config.json", b"{}", "is not valid"),
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"", "not readable safetensors"),
        ("model.safetensors", b"\xff" * 100, "not readable safetensors"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}extra", "have 15 bytes instead of 10"),
        ("model.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000, "not readable safetensors"),
        ("tokenizer.json", b"not json", "not readable JSON"),
        ("tokenizer.json", b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = write_checkpoint(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint_info(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_checkpoints_choices_are_filled_in() -> None:
    assert resolve({}).exits == (2, 4, 8)
    assert resolve({}).thresholds == (0.9, 0.8)
    assert resolve({"exits": [4, 8]}).thresholds == (0.8,)
    assert resolve({"exits": [8]}, thresholds=None).thresholds is None
    assert resolve({"schedule": "full"}, thresholds=None).thresholds is None


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"exits": [3, 8]}, {}, r"engine.exits \[3, 8\] must be among the checkpoint's exits \[2, 4, 8\]"),
        ({"exits": [2, 4]}, {}, "must end with the full depth, 8"),
        ({"thresholds": [0.5]}, {}, "one value per exit but the last, got 1"),
        ({}, {"thresholds": None}, "no calibrated thresholds"),
        ({"generation": {"max_new_tokens": 500}}, {}, "max_new_tokens=500 is more than the checkpoint's 96"),
    ],
)
def test_what_does_not_fit_is_one_sentence(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(settings, **changes)


@pytest.mark.parametrize(
    ("settings", "untrained", "guesses"),
    [
        ({}, (2, 4), [2, 4]),
        ({}, (), None),
        ({"exits": [4, 8]}, (2,), None),
        ({"exits": [4, 8]}, (2, 4), [4]),
        ({"thresholds": [1.01, 0.9]}, (2, 4), [4]),
        ({"thresholds": [1.01, 1.01]}, (2, 4), None),
        ({"schedule": "full"}, (2, 4), None),
        ({"lossless": True}, (2, 4), None),
    ],
)
def test_untrained_exits_are_warned_of_where_tokens_may_leave_there(
    settings: dict[str, Any], untrained: tuple[int, ...], guesses: list[int] | None
) -> None:
    warning = untrained_exits_warning(resolve(settings), info(untrained_exits=untrained))
    assert (warning is None) == (guesses is None)
    if warning is not None:
        assert warning.startswith(f"exits {guesses} of the checkpoint are untrained")
        assert "\n" not in warning
