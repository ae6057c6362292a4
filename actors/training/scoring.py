"""Predictions on the scenes corpus -> scores, and the sweeps that `deed evaluate` and `deed calibrate` print."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from actors.model.checkpoint import Checkpoint
from actors.training.corpus import TrainingSample
from actors.training.depth import agreement, computed_depth, mean_depth
from actors.training.evaluation import Item, Prediction, predict
from conf.engine import EngineConfig, Gate, Schedule
from conf.model import ModelConfig
from conf.resolve import exits_that_can_fire
from pipeline.metrics.answers import anls, exact_match
from pipeline.metrics.captions import bleu_4, cider_d, rouge_l
from pipeline.metrics.objects import object_names, set_f1

Labelled = tuple[str, EngineConfig]


@dataclass(frozen=True)
class Scores:
    """One row of the evaluation table; shares in [0, 1], depth in layers, NaN where there was nothing to score."""

    label: str
    mean_depth: float  # that tokens left at
    computed_depth: float  # that positions were computed to, catching up included
    caption_f1: float  # names of the kinds in the scene, micro-averaged over images
    caption_cider_d: float
    caption_bleu_4: float
    caption_rouge_l: float
    caption_exact: float  # captions that are one of their references
    vqa_accuracy: float
    vqa_anls: float
    vqa_easy: float
    vqa_hard: float
    by_task: dict[str, float]
    equal_outputs: float | None = None  # against full depth
    equal_tokens: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return what JSON can hold, which knows no NaN."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def score(label: str, predictions: Sequence[Prediction], full: Sequence[Prediction] | None = None) -> Scores:
    """Score predictions against their references, and against the full-depth predictions when given."""
    captions = [p for p in predictions if p.item.task == "caption"]
    answers = [p for p in predictions if p.item.task != "caption"]
    texts, references = [p.text for p in captions], [list(p.item.references) for p in captions]
    names = [p.item.object_names for p in captions]
    vocabulary = object_names([name for p in predictions for name in p.item.object_names])
    similar = [anls(p.text, list(p.item.references)) for p in answers]
    exact = [exact_match(p.text, list(p.item.references)) for p in captions]
    hits = {id(p): float(exact_match(p.text, list(p.item.references))) for p in answers}

    def accuracy(keep: Callable[[Item], bool]) -> float:
        kept = [hits[id(p)] for p in answers if keep(p.item)]
        return _mean(kept)

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
        caption_exact=_mean(exact),
        vqa_accuracy=accuracy(lambda _: True),
        vqa_anls=_mean(similar),
        vqa_easy=accuracy(lambda item: not item.hard),
        vqa_hard=accuracy(lambda item: item.hard),
        by_task={t: accuracy(lambda item, t=t: item.task == t) for t in sorted({p.item.task for p in answers})},
        equal_outputs=equal[0],
        equal_tokens=equal[1],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def points_lost(full: Scores, row: Scores) -> float:
    """Return the most that early exit loses against full depth, in points of what can be scored.

    Captions by the names they hold or, where nobody says which objects are there, by ROUGE-L; all answers; hard ones.
    """
    captions = "caption_rouge_l" if math.isnan(full.caption_f1) else "caption_f1"
    lost = [getattr(full, name) - getattr(row, name) for name in (captions, "vqa_accuracy", "vqa_hard")]
    return 100 * max(points for points in lost if not math.isnan(points))


def static_exit(engine: EngineConfig, layer: int, num_layers: int) -> EngineConfig:
    """Return the same engine with every token emitted at one exit."""
    if layer == num_layers:
        return engine.at_full_depth()
    return engine.model_copy(update={"schedule": Schedule.POOL, "exits": (layer, num_layers), "thresholds": (0.0,)})


def dynamic_exits(engine: EngineConfig, model: ModelConfig, thresholds: Sequence[float]) -> list[Labelled]:
    """What is worth comparing: the calibrated thresholds, the learned gate, and every given threshold at all exits."""
    rows: list[Labelled] = []
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
    checkpoint: Checkpoint,
    samples: Sequence[TrainingSample],
    items: Sequence[Item],
    base: EngineConfig,
    engines: Sequence[Labelled],
    on_row: Callable[[Scores], None],
    words_field: str,
) -> list[Scores]:
    """Score `base` at full depth first, then every engine; rows carry their agreement with full depth."""
    full = predict(checkpoint, base.at_full_depth(), samples, items, words_field)
    rows = [score("full depth", full, full)]
    on_row(rows[0])
    for label, engine in engines:
        rows.append(score(label, predict(checkpoint, engine, samples, items, words_field), full))
        on_row(rows[-1])
    return rows
