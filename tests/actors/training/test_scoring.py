"""Rows of `deed evaluate`: the scores of known predictions, and which early exits are compared."""

import math
from dataclasses import replace

import pytest
from anls import anls_score
from pycocoevalcap.rouge.rouge import Rouge

from actors.engine.request import Completion, FinishReason
from actors.training.evaluation import Prediction
from actors.training.rows.row import Row
from actors.training.scoring import Group, dynamic_exits, points_lost, score
from conf.engine import EngineConfig, Gate
from pipeline.source.references import Kind, Reference
from tests.actors.engine.tiny import tiny_model

SAID = [
    ("caption", "a cat and a dog", ("a cat and a dog", "a dog and a cat")),
    ("caption", "a cat", ("a dog and two birds",)),
    ("color", "red", ("red",)),
    ("color", "reddish", ("red",)),
    ("sign", "K7TQ", ("K7TO",)),
]


def _prediction(task: str, text: str, references: tuple[str, ...], depth: int) -> Prediction:
    completion = Completion(0, (5, 6), (depth, depth), (0.5, 0.5), FinishReason.EOS, 0, 0, 0, 0, 0, 0, 0)
    kind, names = (Kind.CAPTION, ("cat", "dog")) if task == "caption" else (Kind.ANSWER, ())
    row = Row(
        "s", "k", "s/k", 0, 0, "?", Reference(kind, references, names), fields={"task": task, "hard": len(text) > 4}
    )
    return Prediction(row, text, completion)


def test_scores_of_known_predictions() -> None:
    predictions = [_prediction(*said, depth) for depth, said in enumerate(SAID, start=1)]
    row = score("x", predictions, group_by=("task", "hard"))
    assert row.caption_exact == 0.5
    assert row.answer_exact == row.answer_vqa == pytest.approx(1 / 3)
    answers = [(text, list(references)) for task, text, references in SAID if task != "caption"]
    assert row.answer_anls == pytest.approx(sum(anls_score(*answer) for answer in answers) / len(answers))
    assert 0 < row.answer_exact < row.answer_anls < 1
    captions = [(text, list(references)) for task, text, references in SAID if task == "caption"]
    rouge = [Rouge().calc_score([text], references) for text, references in captions]
    assert row.caption_rouge_l == pytest.approx(sum(rouge) / len(rouge))
    assert row.mean_depth == row.computed_depth == 3.0
    assert row.groups["task"] == {"color": Group(2, 0.5), "sign": Group(1, 0.0)}
    assert row.groups["hard"] == {"false": Group(2, 0.5), "true": Group(1, 0.0)}


def test_several_people_have_answered() -> None:
    people = ("red",) * 2 + ("dark red",) * 8
    row = score("x", [_prediction("color", "red", people, 1), _prediction("color", "dark red", people, 1)])
    assert row.answer_exact == 1.0
    assert row.answer_vqa == pytest.approx((0.6 + 1.0) / 2)  # two of ten said red


def test_a_deep_step_makes_earlier_ones_catch_up() -> None:
    completion = Completion(0, (5, 6, 7, 8), (1, 4, 2, 1), (0.5,) * 4, FinishReason.EOS, 0, 0, 0, 0, 0, 0, 0)
    predictions = [replace(_prediction("color", "red", ("red",), 1), completion=completion)]
    row = score("x", predictions)
    assert (row.mean_depth, row.computed_depth) == (2.0, (4 + 4 + 2 + 1) / 4)


def test_no_captions_and_no_questions_are_no_numbers() -> None:
    row = score("x", [_prediction(*SAID[2], 1)])
    assert row.caption_exact != row.caption_exact
    assert row.answer_anls == 1.0


def test_points_lost_are_the_most_of_what_is_scored() -> None:
    full = score("full", [_prediction(*said, 1) for said in SAID], group_by=("task",))
    assert points_lost(full, full) == 0
    worse = replace(full, caption_f1=full.caption_f1 - 0.02, answer_exact=full.answer_exact - 0.01, caption_rouge_l=0)
    assert points_lost(full, worse) == pytest.approx(2)
    in_one_group = {"task": {**full.groups["task"], "color": Group(2, 0.4)}}
    assert points_lost(full, replace(worse, groups=in_one_group)) == pytest.approx(10)
    unnamed = replace(full, caption_f1=math.nan)
    assert points_lost(unnamed, replace(worse, caption_rouge_l=full.caption_rouge_l)) == pytest.approx(1)
    assert points_lost(unnamed, worse) == pytest.approx(100 * full.caption_rouge_l)


def test_the_early_exits_that_are_compared() -> None:
    plain = tiny_model().config.model_copy(update={"thresholds": None, "gate_thresholds": None, "gates": False})
    assert dynamic_exits(EngineConfig(), plain, ()) == []
    [(label, swept)] = dynamic_exits(EngineConfig(), plain, (0.9,))
    assert (label, swept.exits, swept.thresholds) == ("threshold 0.9", (1, 2, 3, 4, 5), (0.9,) * 4)
    calibrated = plain.model_copy(update={"thresholds": (0.5, 1.01, 0.6, 1.01)})
    (label, early), (_, swept) = dynamic_exits(EngineConfig(), calibrated, (0.9,))
    assert (label, early) == ("early exit", EngineConfig())
    assert (swept.exits, swept.thresholds) == ((1, 3, 5), (0.9, 0.9))  # calibration has closed the others
    gated = calibrated.model_copy(update={"gates": True, "gate_thresholds": (0.7,) * 4})
    for gate in (Gate.SOFTMAX_MAX, Gate.CLASSIFIER):
        rows = dynamic_exits(EngineConfig(gate=gate), gated, ())
        assert [(label, row.gate) for label, row in rows] == [
            ("early exit", Gate.SOFTMAX_MAX), ("learned gate", Gate.CLASSIFIER),
        ]  # fmt: skip
    own = dynamic_exits(EngineConfig(exits=(2, 5), thresholds=(0.4,)), gated, (0.9,))
    assert [row.exits for _, row in own] == [(2, 5)] * 3
    assert [row.thresholds for _, row in own] == [(0.4,), None, (0.9,)]  # given thresholds are those of the given gate
