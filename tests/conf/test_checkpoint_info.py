"""The engine's settings and the checkpoint's must fit; what the checkpoint knows is filled in."""

from typing import Any

import pytest

from conf.checkpoint_info import CheckpointInfo, resolve_engine
from conf.errors import UserError
from conf.schema import EngineConfig


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
