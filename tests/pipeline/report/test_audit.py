"""The audit in a report: what was promised, what was observed, what is missing, and what it cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from conf.guarantee import Guarantee
from conf.schema import BrokenPromise
from pipeline.output.storage import Storage
from pipeline.promise.choice import AuditPlan
from pipeline.promise.losses import Audited
from pipeline.promise.watch import Watch
from pipeline.report.build import Report, build_report
from pipeline.report.facts import Fact, reconciliation, sections_of
from pipeline.report.json_form import render_json
from pipeline.report.markdown import render_markdown
from pipeline.report.page import render_html
from tests.pipeline.promise.test_watch import promise
from tests.pipeline.report.runs import FakeRun
from tests.pipeline.report.test_terminal import printed

NOW = "2026-01-02 03:04 UTC"
AUDIT_S = 0.25


def report_of(
    folder: Path, losses: list[float], promised: Guarantee | None, reaction: BrokenPromise = BrokenPromise.WARN,
    **later: Any,
) -> Report:  # fmt: skip
    """A run whose engines worked for AUDIT_S longer than its rows took."""
    run = FakeRun(folder / "run", num_rows=40).write()
    watch = Watch(Storage(str(folder / "watch")), AuditPlan(0.02, "text_differs"), promised, reaction)
    for chunk, found in enumerate((Audited(tuple(losses), num_twice=8, device_s=AUDIT_S), Audited(**later))):
        watch.take({"shard": "s", "chunk": chunk, "num_rows": 100, "audit": found.to_json()})
    record = run.record()
    record["audit"] = watch.content(run.device_s + AUDIT_S)
    Storage(str(run.path)).write("run.json", json.dumps(record).encode())
    return build_report([str(run.path)], num_items=4)


def facts(report: Report, section: str = "audit") -> dict[str, Fact]:
    return {fact.label: fact for s in sections_of(report.runs[0]) if s.id == section for fact in s.facts}


@pytest.fixture
def kept(tmp_path: Path) -> Report:
    return report_of(tmp_path, [0.0] * 98 + [1.0] * 2, promise(0.05))


def test_a_kept_promise_is_shown_with_what_it_would_take_to_see_more(kept: Report) -> None:
    found = facts(kept)
    assert found["promised"].text == "at most 5.0 %"
    assert "with probability 0.95" in found["promised"].note
    assert (found["observed"].text, found["observed"].value) == ("2.0 %", pytest.approx(0.02))
    assert found["observed"].note == "0.6 % to 7.0 % (95 %)"
    assert found["images audited"].text == "100"
    more = found["more images to see a rate twice as bad"]
    assert (more.text, more.note) == ("45", "about 145 in all on average, for 10.0 %")
    assert found["alarm"].text == "none"
    assert "rows at full depth since" not in found


def test_its_cost_is_a_line_of_its_own_and_time_still_adds_up(kept: Report) -> None:
    run = kept.runs[0]
    assert run.audit is not None
    share = AUDIT_S / (run.device_time.attributed_s + AUDIT_S)
    line = facts(kept)["device time of the audit"]
    assert (line.text, line.value) == ("250 ms", AUDIT_S)
    assert f"{100 * share:.1f} % of the engines' busy time" in line.note
    assert facts(kept, "cost")["of that, for the audit"].value == AUDIT_S
    assert "+ 250 ms for the audit +" in reconciliation(run)


def test_a_broken_promise_is_told_with_what_came_before_and_after(tmp_path: Path) -> None:
    report = report_of(
        tmp_path, [1.0] * 10, promise(0.05), BrokenPromise.FULL_DEPTH, num_followed=3, num_fallback_rows=100
    )
    found = facts(report)
    assert found["alarm"].text.startswith("after ")
    assert found["rows at full depth since"].text == "100"
    assert found["rows at full depth since"].note == ("100 rows were done by then; 3 images audited since, none lost")
    assert ", and broken" in printed(report.runs[0])


def test_without_a_promise_only_what_was_observed_is_shown(tmp_path: Path) -> None:
    found = facts(report_of(tmp_path, [0.5, 0.0], None))
    assert list(found) == ["observed", "images audited", "device time of the audit"]


def test_every_form_has_it(kept: Report) -> None:
    assert "<h2>Audit</h2>" in render_html(kept, generated_utc=NOW)
    assert "## Audit" in render_markdown(kept, generated_utc=NOW)
    audit = json.loads(render_json(kept, generated_utc=NOW))["runs"][0]["audit"]
    assert (audit["images"], audit["promise"]["risk"]) == (100, 0.05)
    assert "2.0 % lost for leaving early" in printed(kept.runs[0])


def test_runs_without_an_audit_have_no_section(tmp_path: Path) -> None:
    report = build_report([str(FakeRun(tmp_path / "run", num_rows=20).write().path)], num_items=4)
    assert report.runs[0].audit is None
    assert facts(report) == {}
    assert "<h2>Audit</h2>" not in render_html(report, generated_utc=NOW)
