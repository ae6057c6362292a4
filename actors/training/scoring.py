"""Predictions on labelled rows -> scores, and the sweeps that `deed evaluate` and `deed calibrate` print."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from actors.training.depth import agreement, computed_depth, mean_depth
from actors.training.evaluation import Labelled, Prediction, predict
from actors.training.pretrained.held_out import HeldOut
from conf.engine import EngineConfig, Gate, Schedule
from conf.model import ModelConfig
from conf.resolve import exits_that_can_fire
from pipeline.metrics.answers import anls, exact_match, vqa_accuracy
from pipeline.metrics.captions import bleu_4, cider_d, rouge_l
from pipeline.metrics.objects import object_names, set_f1
from pipeline.source.references import Kind
from pipeline.text import json_text

Candidate = tuple[str, EngineConfig]


@dataclass(frozen=True)
class Group:
    """Answers to rows with one value of a field: how many, and which share of them is one of the references."""

    count: int
    exact: float


@dataclass(frozen=True)
class Scores:
    """One row of the evaluation table; shares in [0, 1], depth in layers, NaN where there was nothing to score."""

    label: str
    mean_depth: float  # that tokens left at
    computed_depth: float  # that positions were computed to, catching up included
    caption_f1: float  # names of what is in the image, micro-averaged over images
    caption_cider_d: float
    caption_bleu_4: float
    caption_rouge_l: float
    caption_exact: float  # captions that are one of their references
    answer_exact: float  # the same of answers
    answer_anls: float
    answer_vqa: float  # VQA accuracy (pipeline/metrics/answers.py)
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)  # field -> value -> its answers
    equal_outputs: float | None = None  # against full depth
    equal_tokens: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return what JSON can hold, which knows no NaN."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def score(
    label: str, predictions: Sequence[Prediction], full: Sequence[Prediction] | None = None,
    group_by: Sequence[str] = (),
) -> Scores:  # fmt: skip
    """Score predictions against their references, and against the full-depth predictions when given."""
    captions, answers = _of_kind(predictions, Kind.CAPTION), _of_kind(predictions, Kind.ANSWER)
    texts, references = [p.text for p, _ in captions], [right for _, right in captions]
    names = [reference.object_names for p, _ in captions if (reference := p.row.reference) is not None]
    vocabulary = object_names([name for own in names for name in own])
    completions = [p.completion for p in predictions]
    equal = (None, None)
    if full is not None:
        equal = agreement([c.token_ids for c in completions], [p.completion.token_ids for p in full])
    return Scores(
        label=label,
        mean_depth=mean_depth(completions),
        computed_depth=computed_depth(completions),
        caption_f1=set_f1(texts, names, vocabulary) if any(names) else math.nan,
        caption_cider_d=cider_d(texts, references),
        caption_bleu_4=bleu_4(texts, references) if texts else math.nan,
        caption_rouge_l=rouge_l(texts, references),
        caption_exact=_mean([exact_match(p.text, right) for p, right in captions]),
        answer_exact=_mean([exact_match(p.text, right) for p, right in answers]),
        answer_anls=_mean([anls(p.text, right) for p, right in answers]),
        answer_vqa=_mean([vqa_accuracy(p.text, right) for p, right in answers]),
        groups={name: _groups(answers, name) for name in group_by},
        equal_outputs=equal[0],
        equal_tokens=equal[1],
    )


def _of_kind(predictions: Sequence[Prediction], kind: Kind) -> list[tuple[Prediction, list[str]]]:
    """Return the predictions whose references are of a kind, each with their texts."""
    return [(p, list(own.texts)) for p in predictions if (own := p.row.reference) is not None and own.kind is kind]


def _groups(answers: Sequence[tuple[Prediction, list[str]]], name: str) -> dict[str, Group]:
    right: dict[str, list[bool]] = {}
    for p, references in answers:
        value = p.row.fields.get(name)
        if value is not None:
            shown = value if isinstance(value, str) else json_text(value)
            right.setdefault(shown, []).append(exact_match(p.text, references))
    return {value: Group(len(right[value]), _mean(right[value])) for value in sorted(right)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def points_lost(full: Scores, row: Scores) -> float:
    """Return the most that early exit loses against full depth, in points of what can be scored.

    Captions by the names they hold or, where nobody says which objects are there, by ROUGE-L; answers, and those of
    each group, by how many are one of their references.
    """
    captions = "caption_rouge_l" if math.isnan(full.caption_f1) else "caption_f1"
    lost = [getattr(full, name) - getattr(row, name) for name in (captions, "answer_exact")]
    lost += [
        group.exact - row.groups[name][value].exact for name, of in full.groups.items() for value, group in of.items()
    ]
    return 100 * max(points for points in lost if not math.isnan(points))


def static_exit(engine: EngineConfig, layer: int, num_layers: int) -> EngineConfig:
    """Return the same engine with every token emitted at one exit."""
    if layer == num_layers:
        return engine.at_full_depth()
    return engine.model_copy(update={"schedule": Schedule.POOL, "exits": (layer, num_layers), "thresholds": (0.0,)})


def dynamic_exits(engine: EngineConfig, model: ModelConfig, thresholds: Sequence[float]) -> list[Candidate]:
    """What is worth comparing: the calibrated thresholds, the learned gate, and every given threshold at all exits."""
    rows: list[Candidate] = []
    softmax = engine
    if engine.gate is Gate.CLASSIFIER:  # given thresholds are the gate's
        softmax = engine.model_copy(update={"gate": Gate.SOFTMAX_MAX, "thresholds": None})
    if softmax.thresholds or model.thresholds:
        rows.append(("early exit", softmax))
    if model.gates and model.gate_thresholds:
        learned = {"gate": Gate.CLASSIFIER, "thresholds": None if engine is softmax else engine.thresholds}
        rows.append(("learned gate", engine.model_copy(update=learned)))
    open_exits = (*exits_that_can_fire(model.exits, model.thresholds), model.exits[-1])
    exits = engine.exits or (open_exits if model.thresholds else model.exits)
    if len(exits) > 1:
        rows += [
            (f"threshold {t:g}", softmax.model_copy(update={"exits": exits, "thresholds": (t,) * (len(exits) - 1)}))
            for t in thresholds
        ]
    return rows


def sweep(
    labelled: Labelled, base: EngineConfig, engines: Sequence[Candidate], on_row: Callable[[Scores], None],
    images: HeldOut | None = None,
) -> list[Scores]:  # fmt: skip
    """Score `base` at full depth first, then every engine; rows carry their agreement with full depth.

    `images`: which are decoded; none: all.
    """
    images, group_by = images or labelled.images, labelled.config.group_by
    full = predict(labelled, base.at_full_depth(), images)
    rows = [score("full depth", full, full, group_by)]
    on_row(rows[0])
    for label, engine in engines:
        rows.append(score(label, predict(labelled, engine, images), full, group_by))
        on_row(rows[-1])
    return rows
