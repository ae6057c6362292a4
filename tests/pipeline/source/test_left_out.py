"""Files that are no input rows are counted by reason: with the shard, in run.json, in the status and in the report."""

import json
from pathlib import Path

import pytest

from jobs import cli
from pipeline.output.ledger import Ledger, save_plan
from pipeline.output.publish import publish_shard, read_counts
from pipeline.output.settings import save_settings
from pipeline.output.status import read_status
from pipeline.output.storage import Storage
from pipeline.report.build import build_report
from pipeline.report.markdown import render_markdown
from pipeline.source.left_out import LISTING_NAME, as_dicts, in_words, save_listing, sentence
from pipeline.source.plan import LeftOut, Shard
from pipeline.source.shard_index import ShardIndex
from tests.pipeline.helpers import good_row, index_of, stage
from tests.pipeline.output.test_run_record import record_of

HIDDEN = LeftOut("hidden_files", 1100, ("._a.jpg", "._b.jpg"))
BOTH = [HIDDEN, LeftOut("other_files", 3, ("notes.txt", "a.pdf"))]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An output whose listing left hidden files out, and whose two published shards left three members out."""
    storage = Storage(str(tmp_path / "out"))
    save_settings(storage, {"a": 1})
    save_plan(storage, {}, [Shard(name, f"/{name}.tar", 1) for name in "ab"])
    save_listing(storage, [HIDDEN])
    for name, part in (("a", LeftOut("other_files", 2, ("notes.txt",))), ("b", LeftOut("other_files", 1, ("a.pdf",)))):
        whole = index_of(1, 1)
        index = ShardIndex(whole.samples, (), 1, (part,))
        stage(storage, index, 0, [good_row(0, shard=name)], shard=name)
        assert publish_shard(storage, name).counts is not None
    return storage


def test_a_published_shard_keeps_what_it_left_out(storage: Storage) -> None:
    assert read_counts(storage, "a").left_out == (LeftOut("other_files", 2, ("notes.txt",)),)
    assert (read_counts(storage, "a") + read_counts(storage, "b")).left_out == tuple(BOTH[1:])


def test_listing_and_shards_are_summed_in_the_record_the_status_and_the_report(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    with record_of(storage, Ledger("ab", published="ab")) as record:
        pass
    assert record.content["left_out"] == as_dicts(BOTH)
    assert read_status(storage.url).left_out == tuple(BOTH)
    assert cli.main(["status", storage.url]) == 0
    shown = capsys.readouterr().out
    assert "left out  1,100 hidden files (._a.jpg, ._b.jpg, ...)\n" in shown
    assert "3 other files (notes.txt, a.pdf, ...)" in shown
    report = build_report([storage.url])
    assert report.runs[0].outcome.left_out == tuple(BOTH)
    text = render_markdown(report, generated_utc="now")
    assert "| left out: hidden files | 1,100 |" in text
    assert json.loads(json.dumps(report.runs[0].as_dict()))["outcome"]["left_out"] == as_dicts(BOTH)


def test_an_output_of_an_earlier_version_left_nothing_out(storage: Storage) -> None:
    storage.remove([LISTING_NAME])
    with record_of(storage, Ledger("ab")) as record:
        pass
    assert record.content["left_out"] == []


def test_words_name_a_few_and_say_when_there_are_more() -> None:
    assert in_words(LeftOut("broken_links", 1, ("a.png",))) == "1 broken link (a.png)"
    assert in_words(LeftOut("broken_links", 12)) == "12 broken links"
    assert sentence([]) == ""
    assert sentence(BOTH).startswith("left out, no input rows: 1,100 hidden files (._a.jpg, ._b.jpg, ...); 3 other")
