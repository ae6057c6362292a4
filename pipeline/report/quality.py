"""Scores of a fair sample of rows against references, where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.metrics.answers import anls, exact_match, relaxed_accuracy, vqa_accuracy
from pipeline.metrics.captions import bleu_4, cider_d, rouge_l
from pipeline.metrics.intervals import wilson_interval
from pipeline.metrics.objects import object_names, object_scores
from pipeline.source.references import Kind, Reference


@dataclass(frozen=True)
class Score:
    """One number; `low` and `high` are its 95 % interval where it is a share of rows."""

    kind: Kind
    name: str
    value: float
    num_rows: int
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Quality:
    num_rows: int  # scored
    num_without: int  # sampled rows that have no reference
    scores: tuple[Score, ...]


def quality_of(rows: Sequence[tuple[str, Reference | None]], vocabulary: Sequence[str] | None = None) -> Quality | None:
    """Scores of (text, reference) pairs; None if no row has a reference.

    `vocabulary`: every object name there is; without it the names that occur in the references, which cannot count a
    name that is wrong everywhere.
    """
    scored = [(text, reference) for text, reference in rows if reference is not None and reference.texts]
    if not scored:
        return None
    captions = [(text, reference) for text, reference in scored if reference.kind is Kind.CAPTION]
    answers = [(text, reference) for text, reference in scored if reference.kind is Kind.ANSWER]
    scores = [*_caption_scores(captions, vocabulary), *_answer_scores(answers)]
    return Quality(len(scored), len(rows) - len(scored), tuple(scores))


def _caption_scores(rows: Sequence[tuple[str, Reference]], vocabulary: Sequence[str] | None) -> list[Score]:
    if not rows:
        return []
    texts, references = [text for text, _ in rows], [list(reference.texts) for _, reference in rows]
    count, per_image = len(rows), sum(map(len, references)) / len(rows)
    given = f"{per_image:.3g} reference{'' if per_image == 1 else 's'} per image"
    scores = [
        Score(Kind.CAPTION, "CIDEr-D", cider_d(texts, references), count, note=given),
        Score(Kind.CAPTION, "BLEU-4", bleu_4(texts, references), count),
        Score(Kind.CAPTION, "ROUGE-L", rouge_l(texts, references), count),
        _share(Kind.CAPTION, "exact match", [exact_match(t, r) for t, r in zip(texts, references, strict=True)]),
    ]
    named = [(text, reference.object_names) for text, reference in rows if reference.object_names]
    if named:
        names = vocabulary or sorted({name for _, names in named for name in names})
        objects = object_scores([text for text, _ in named], [names for _, names in named], object_names(names))
        note = f"precision {objects.precision:.3f}, recall {objects.recall:.3f}"
        scores.insert(0, Score(Kind.CAPTION, "object naming F1", objects.f1, len(named), note=note))
    return scores


def _answer_scores(rows: Sequence[tuple[str, Reference]]) -> list[Score]:
    if not rows:
        return []
    pairs = [(text, reference.texts) for text, reference in rows]
    per_row: Mapping[str, list[float]] = {
        "VQA accuracy": [vqa_accuracy(*pair) for pair in pairs],
        "ANLS": [anls(*pair) for pair in pairs],
    }
    means = [Score(Kind.ANSWER, name, sum(values) / len(values), len(values)) for name, values in per_row.items()]
    exact = _share(Kind.ANSWER, "exact match", [exact_match(*pair) for pair in pairs])
    relaxed = _share(Kind.ANSWER, "relaxed accuracy", [relaxed_accuracy(*pair) for pair in pairs])
    return [means[0], exact, means[1], relaxed]


def _share(kind: Kind, name: str, right: Sequence[bool]) -> Score:
    low, high = wilson_interval(sum(right), len(right))
    return Score(kind, name, sum(right) / len(right), len(right), low, high)
