"""The engine's settings and the checkpoint's must fit; what a run uses of both."""

from typing import Any

import pytest

from conf.engine import EngineConfig
from conf.errors import UserError
from conf.model import ModelConfig
from conf.resolve import Decay, Resolved, checkpoint_warnings, resolve, untrained_exits_warning


def model(**changes: Any) -> ModelConfig:
    width = {"d_model": 32, "num_heads": 2, "d_ff": 48}
    base: dict[str, Any] = {
        "name": "any", "image_size": 32, "exits": (2, 4, 8), "thresholds": (0.9, 0.8),
        "encoder": {"num_layers": 1, **width},
        "decoder": {"num_layers": 8, "d_head": 16, "d_cross": 32, "vocab_size": 40, "max_positions": 96, **width},
    }  # fmt: skip
    return ModelConfig.model_validate({**base, **changes})


def resolved(settings: dict[str, Any], **changes: Any) -> Resolved:
    return resolve(model(**changes), EngineConfig.model_validate(settings))


def test_the_checkpoints_choices_are_filled_in() -> None:
    assert resolved({}).settings.exits == (2, 4, 8)
    assert resolved({}).settings.thresholds == (0.9, 0.8)
    assert resolved({"exits": [4, 8]}).settings.thresholds == (0.8,)
    assert resolved({"exits": [8]}, thresholds=None).settings.thresholds is None
    full = resolved({"schedule": "full"})
    assert (full.settings.exits, full.settings.thresholds) == ((2, 4, 8), (0.9, 0.8))
    assert resolved({"schedule": "full"}, thresholds=None).settings.thresholds is None
    learned = {"gate": "classifier"}
    assert resolved(learned, gates=True, gate_thresholds=(0.1, 0.2)).thresholds == (0.1, 0.2)


@pytest.mark.parametrize(
    ("settings", "exit_layers", "thresholds"),
    [
        ({}, (2, 4, 8), (0.9, 0.8)),
        ({"thresholds": [1.0, 1.01]}, (2, 8), (1.0,)),
        ({"thresholds": [2.0, 0.5]}, (4, 8), (0.5,)),
        ({"exits": [2, 8], "thresholds": [2.0]}, (8,), ()),
        ({"schedule": "full"}, (8,), ()),
    ],
)
def test_a_run_has_only_exits_that_can_fire(
    settings: dict[str, Any], exit_layers: tuple[int, ...], thresholds: tuple[float, ...]
) -> None:
    found = resolved(settings)
    assert (found.exit_layers, found.thresholds) == (exit_layers, thresholds)


def test_lengths_are_those_of_the_generation_options() -> None:
    found = resolved({"generation": {"max_new_tokens": 90, "prefix_ids": [1, 2]}, "threshold_decay": 4.0})
    assert (found.max_new_tokens, found.max_prefix, found.decay) == (90, 2, Decay(4.0, 90))
    assert resolved({"generation": {"max_new_tokens": 90, "max_prefix_tokens": 6}}).max_prefix == 6
    assert resolved({}).decay is None


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"exits": [3, 8]}, {}, r"engine.exits \[3, 8\] must be among the checkpoint's exits \[2, 4, 8\]"),
        ({"exits": []}, {}, "must end with the full depth, 8"),
        ({"exits": [2, 4]}, {}, "must end with the full depth, 8"),
        ({"thresholds": [0.5]}, {}, "one value per exit but the last, got 1"),
        ({}, {"thresholds": None}, "no calibrated thresholds"),
        ({"generation": {"max_new_tokens": 500}}, {}, "max_new_tokens=500 is more than the checkpoint's 96"),
        (
            {"generation": {"max_new_tokens": 92, "max_prefix_tokens": 5}},
            {},
            "max_new_tokens=92 with a prefix of 5 tokens is more than the checkpoint's 96",
        ),
        (
            {"generation": {"prefix_ids": [3, 4], "max_prefix_tokens": 1}},
            {},
            "prefix has 2 tokens, max_prefix_tokens=1 allows fewer",
        ),
        ({"generation": {"prefix_ids": [40]}}, {}, "prefix has the token id 40, the vocabulary's ids are 0 to 39"),
        ({"gate": "classifier"}, {}, "needs a checkpoint with learned gates"),
    ],
)
def test_what_does_not_fit_is_one_sentence(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(settings, **changes)


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
    warning = untrained_exits_warning(resolved(settings).settings, model(untrained_exits=untrained))
    assert (warning is None) == (guesses is None)
    if warning is not None:
        assert warning.startswith(f"exits {guesses} of the checkpoint are untrained")
        assert "\n" not in warning


@pytest.mark.parametrize("settings", [{}, {"schedule": "full"}])
def test_a_checkpoint_that_lost_too_much_is_warned_of_at_every_depth(settings: dict[str, Any]) -> None:
    def warnings(**changes: Any) -> list[str]:
        return checkpoint_warnings(resolved(settings, **changes).settings, model(**changes))

    assert warnings() == []
    (warning,) = warnings(points_lost=1.2345)
    assert warning.startswith("full depth of this checkpoint lost 1.23 points in training, beyond what was allowed; ")
    assert "\n" not in warning
    assert len(warnings(points_lost=1.2, untrained_exits=(2,))) == (1 if settings else 2)
