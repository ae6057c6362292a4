"""The report as Markdown, for a pull request or a wiki; values from outside are escaped."""

from collections.abc import Iterator, Sequence

from pipeline.report.build import Report
from pipeline.report.facts import interval_of, reconciliation, sections_of
from pipeline.report.number_formats import count, number, share
from pipeline.report.report_schema import RunNumbers
from pipeline.report.safe_text import markdown
from pipeline.report.side_by_side import ComparedFact, compared_sections


def render_markdown(report: Report, *, generated_utc: str) -> str:
    lines = list(_single(report.runs[0]) if len(report.runs) == 1 else _comparison(report))
    return "\n".join([*lines, "", f"Made {generated_utc} from the tables on storage alone.", ""])


def _single(run: RunNumbers) -> Iterator[str]:
    yield f"# Run report: {markdown(run.name)}"
    for section in sections_of(run):
        if not section.facts:
            continue
        yield from ("", f"## {section.title}", "", section.lead, "")
        yield from _table(
            ["", "value", ""], [[fact.label, markdown(fact.text), markdown(fact.note)] for fact in section.facts]
        )
        if section.id == "outcome":
            yield ""
            for check in run.outcome.checks:
                mark = "unknown" if check.ok is None else "agrees" if check.ok else "**does not agree**"
                yield f"- {check.name}: {mark} ({check.detail})"
        if section.id == "cost":
            yield from ("", reconciliation(run))
        if section.id == "exits" and run.exits.num_steps:
            yield ""
            yield from _table(["layer", "share of tokens", "tokens", "confidence"], _depths(run))
    yield from ("", "## Errors", "")
    if not run.errors:
        yield "No row failed."
        return
    rows = [[markdown(k.error_type), count(k.count), markdown(k.stage), markdown(k.message or "")] for k in run.errors]
    yield from _table(["type", "rows", "stage", "an example"], rows)


def _depths(run: RunNumbers) -> list[list[str]]:
    return [[str(d.layer), share(d.share), count(d.steps), number(d.mean_confidence)] for d in run.exits.histogram]


def _comparison(report: Report) -> Iterator[str]:
    names = [markdown(run.name) for run in report.runs]
    yield f"# Comparison of {' and '.join(names)}"
    yield ""
    for name, comparison in zip(names, report.comparisons, strict=True):
        if comparison is not None:
            equal = (
                f"{share(comparison.equal_texts)} of the texts of {name} equal those of {markdown(comparison.other)}"
            )
            yield f"{equal} ({interval_of(comparison)}, {count(comparison.num_rows)} shared rows).\n"
    for section, facts in compared_sections(report.runs):
        yield from (f"## {section.title}", "")
        cells = [
            [fact.label, *(markdown(f"{text} ({change})" if change else text) for text, change in _pairs(fact))]
            for fact in facts
        ]
        yield from _table(["", *names], cells)
        yield ""


def _pairs(fact: ComparedFact) -> Iterator[tuple[str, str]]:
    return zip(fact.texts, fact.changes, strict=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
