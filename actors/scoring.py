"""Predictions on the scenes corpus -> scores, and the sweeps that `deed evaluate` and `deed calibrate` print."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from actors.evaluation import Item, Prediction, agreement, mean_depth, predict
from actors.model.checkpoint import Checkpoint
from actors.training.data import TrainingSample
from conf.schema import EngineConfig, Schedule
from pipeline.metrics import bleu_4, cider_d, exact_match, object_names, rouge_l, set_f1


@dataclass(frozen=True)
class Scores:
    """One row of the evaluation table; shares in [0, 1], depth in layers."""

    label: str
    mean_depth: float
    caption_f1: float  # names of the kinds in the scene, micro-averaged over images
    caption_cider_d: float
    caption_bleu_4: float
    caption_rouge_l: float
    vqa_accuracy: float
    vqa_easy: float
    vqa_hard: float
    by_task: dict[str, float]
    equal_outputs: float | None = None  # against full depth
    equal_tokens: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def score(label: str, predictions: Sequence[Prediction], full: Sequence[Prediction] | None = None) -> Scores:
    """Score predictions against their references, and against the full-depth predictions when given."""
    captions = [p for p in predictions if p.item.task == "caption"]
    answers = [p for p in predictions if p.item.task != "caption"]
    texts, references = [p.text for p in captions], [list(p.item.references) for p in captions]
    vocabulary = object_names([name for p in predictions for name in p.item.object_names])
    hits = {id(p): float(exact_match(p.text, list(p.item.references))) for p in answers}

    def accuracy(keep: Callable[[Item], bool]) -> float:
        kept = [hits[id(p)] for p in answers if keep(p.item)]
        return sum(kept) / len(kept) if kept else float("nan")

    equal = (None, None) if full is None else agreement(predictions, full)
    return Scores(
        label=label,
        mean_depth=mean_depth(predictions),
        caption_f1=set_f1(texts, [p.item.object_names for p in captions], vocabulary),
        caption_cider_d=cider_d(texts, references),
        caption_bleu_4=bleu_4(texts, references),
        caption_rouge_l=rouge_l(texts, references),
        vqa_accuracy=accuracy(lambda _: True),
        vqa_easy=accuracy(lambda item: not item.hard),
        vqa_hard=accuracy(lambda item: item.hard),
        by_task={t: accuracy(lambda item, t=t: item.task == t) for t in sorted({p.item.task for p in answers})},
        equal_outputs=equal[0],
        equal_tokens=equal[1],
    )


def full_depth(engine: EngineConfig) -> EngineConfig:
    """The same engine without exits."""
    return engine.model_copy(update={"schedule": Schedule.FULL, "exits": None, "thresholds": None})


def static_exit(engine: EngineConfig, layer: int, num_layers: int) -> EngineConfig:
    """The same engine with every token emitted at one exit."""
    if layer == num_layers:
        return full_depth(engine)
    return engine.model_copy(update={"schedule": Schedule.POOL, "exits": (layer, num_layers), "thresholds": (0.0,)})


def sweep(
    checkpoint: Checkpoint,
    samples: Sequence[TrainingSample],
    items: Sequence[Item],
    engines: Sequence[tuple[str, EngineConfig]],
    on_row: Callable[[Scores], None],
) -> list[Scores]:
    """Score full depth first, then every engine; rows carry their agreement with full depth."""
    full = predict(checkpoint, full_depth(engines[0][1] if engines else EngineConfig()), samples, items)
    rows = [score("full depth", full, full)]
    on_row(rows[0])
    for label, engine in engines:
        rows.append(score(label, predict(checkpoint, engine, samples, items), full))
        on_row(rows[-1])
    return rows
