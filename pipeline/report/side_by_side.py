"""Facts of several runs, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.facts import Better, Fact, Section, sections_of
from pipeline.report.number_formats import UNKNOWN
from pipeline.report.report_schema import RunNumbers

_SAME = 5e-4  # change, relative or of a share, that is none


@dataclass(frozen=True)
class ComparedFact:
    """One fact of several runs. `changes`: relative to the first run, as text; "" where there is none to tell."""

    label: str
    texts: tuple[str, ...]
    changes: tuple[str, ...]
    improved: tuple[bool | None, ...]


def compared_sections(runs: Sequence[RunNumbers]) -> list[tuple[Section, list[ComparedFact]]]:
    """Facts of several runs side by side; a fact that only some runs have is unknown for the others."""
    per_run = [{section.id: section for section in sections_of(run)} for run in runs]
    compared = []
    for first in per_run[0].values():
        facts = [{fact.label: fact for fact in sections[first.id].facts} for sections in per_run]
        labels = dict.fromkeys(label for known in facts for label in known)
        rows = [_compared(label, [known.get(label) for known in facts]) for label in labels]
        if rows:
            compared.append((first, rows))
    return compared


def _compared(label: str, facts: list[Fact | None]) -> ComparedFact:
    first = facts[0]
    changes, improved = [""], list[bool | None]([None])
    for fact in facts[1:]:
        change, better = "", None
        if first is not None and fact is not None and _comparable(first, fact):
            change, difference = _change(first, fact)
            better = None if not difference else (difference > 0) is (fact.better is Better.HIGHER)
        changes.append(change)
        improved.append(better)
    texts = tuple(UNKNOWN if fact is None else fact.text for fact in facts)
    return ComparedFact(label, texts, tuple(changes), tuple(improved))


def _comparable(first: Fact, fact: Fact) -> bool:
    known = first.value is not None and fact.value is not None
    return known and fact.better is not None and first.is_estimate is fact.is_estimate


def _change(first: Fact, fact: Fact) -> tuple[str, float]:
    """Return the change as text, and its sign; "=" where there is none worth telling."""
    assert first.value is not None
    assert fact.value is not None
    base = first.value
    difference = fact.value - base
    if abs(difference) <= (_SAME if fact.is_share else _SAME * abs(base)):
        return "=", 0.0
    if fact.is_share:
        return f"{100 * difference:+.1f} points", difference
    if base <= 0:
        return "", difference
    ratio = fact.value / base
    return (f"{100 * (ratio - 1):+.1f} %" if 0.5 <= ratio < 2 else f"{ratio:.2f} x"), difference
