"""What would change nothing in training from a checkpoint is refused, in one sentence."""

from typing import Any

import pytest
from pydantic import ValidationError

from conf.pretrained import PretrainedConfig

BASE: dict[str, Any] = {"checkpoint": "c", "output": "o", "source": {"paths": ["a.tar"]}}


@pytest.mark.parametrize(("changes", "said"), [
    ({"optimizer": {"total_steps": 0}}, "nothing would train"),
    ({"train_encoder": True}, "train_encoder is for parts=low_rank"),
    ({"low_rank": {"rank": 4}}, "low_rank changes nothing with parts=decoder"),
    ({"loss": {"coefficient": 0.05}}, "loss.coefficient changes nothing with loss.weights=mean_plus_last"),
    ({"mode": "frozen", "parts": "everything"}, "parts changes nothing with mode=frozen"),
    ({"mode": "frozen", "loss": {"soft": 0.5}}, "loss.soft changes nothing with mode=frozen"),
    ({"mode": "frozen", "loss": {"layer_dropout": 0.1}}, "loss.layer_dropout changes nothing with mode=frozen"),
    ({"mode": "frozen", "loss": {"stop_head_gradient": True}}, "loss.stop_head_gradient changes nothing"),
])  # fmt: skip
def test_settings_that_change_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PretrainedConfig.model_validate({**BASE, **changes})


@pytest.mark.parametrize("changes", [
    {}, {"mode": "frozen"}, {"mode": "frozen", "loss": {"soft": 1.0}},
    {"optimizer": {"total_steps": 0, "gate_steps": 1}},
    {"parts": "low_rank", "low_rank": {"rank": 4}, "train_encoder": True},
    {"loss": {"weights": "coefficient", "coefficient": 0.05}},
])  # fmt: skip
def test_settings_that_go_together_are_read_back_as_they_were(changes: dict[str, Any]) -> None:
    config = PretrainedConfig.model_validate({**BASE, **changes})
    assert PretrainedConfig.model_validate_json(config.model_dump_json()) == config
