"""Uncertain answers are given again at full depth and replaced, each once, whatever is killed in between."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.backend import Backend
from actors.captioner import Captioner
from actors.engine.request import Completion
from conf.engine import Schedule
from conf.schema import JobConfig
from conf.vqa import VqaConfig
from jobs.vqa import run_ticks
from pipeline.output.publish import read_counts
from pipeline.output.storage import Storage
from pipeline.run import CaptionerSpec
from pipeline.vqa import relabel
from tests.fake_engine import NUM_LAYERS, FakeEngine, make_backend
from tests.integration.corpus import IMAGE_SIZE, expected_text
from tests.integration.vqa_job import vqa_config
from tests.shards import sample_members, write_tar

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
QUESTIONS = ["how many?", "where?"]
RELABEL_BELOW = 0.3


class Hasty(FakeEngine):
    """Unsure of every third answer, by its own text."""

    def step(self) -> list[Completion]:
        return [
            replace(done, confidences=(0.2,) * len(done.confidences)) if unsure(done) else done
            for done in super().step()
        ]


class Thorough(FakeEngine):
    """Ends every answer with an exclamation mark; still unsure of some."""

    def step(self) -> list[Completion]:
        return [self._full(done) for done in super().step()]

    def _full(self, done: Completion) -> Completion:
        token_ids = (*done.token_ids, ord("!"))
        steps = len(token_ids) + 1
        return replace(
            done,
            token_ids=token_ids,
            exit_layers=(NUM_LAYERS,) * steps,
            confidences=(0.25 if sum(token_ids) % 2 else 0.9,) * steps,
        )


def unsure(done: Completion) -> bool:
    return sum(done.token_ids) % 3 == 0


def two_minds(config: JobConfig) -> CaptionerSpec:
    return CaptionerSpec(Captioner, partial(backend, config.engine.schedule is Schedule.FULL))


def backend(full: bool) -> Backend:
    return replace(make_backend(IMAGE_SIZE), make_engine=Thorough if full else Hasty)


def config_of(root: Path, questions: list[str], limit: float | None = RELABEL_BELOW) -> VqaConfig:
    return vqa_config(root, questions).model_copy(update={"relabel_below": limit})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "results").to_pylist() if (folder / "results").is_dir() else []


def check(tick: Path, numbers: range, questions: list[str]) -> int:
    """Every pair once, the unsure ones in full depth's words; gives how many those are."""
    rows = rows_of(tick)
    assert sorted((int(row["key"]), row["prompt"]) for row in rows) == sorted(
        (n, q) for n in numbers for q in questions
    )
    num_unsure = 0
    for row in rows:
        text = expected_text(int(row["key"]), row["prompt"])
        if sum(text.encode()) % 3 == 0:
            num_unsure += 1
            assert row["text"] == f"{text}!"
            assert set(row["exit_layers"]) == {NUM_LAYERS}
            assert row["num_tokens"] == len(text) + 1
            assert "".join(row["token_texts"]) == row["text"]
            assert row["min_confidence"] == pytest.approx(0.25 if sum(row["text"].encode()) % 2 else 0.9)
        else:
            assert row["text"] == text
    assert num_unsure
    return num_unsure


def test_uncertain_answers_are_replaced_once(tmp_path: Path, ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "in" / "a.tar", [member for n in range(20) for member in sample_members(n)])
    tick = tmp_path / "out" / "ticks" / "000001"
    assert run_ticks(config_of(tmp_path, QUESTIONS, limit=None), two_minds) == 0
    assert not (tick / "relabel.json").exists()
    first = {(row["sample_id"], row["prompt"]): row["device_s"] for row in rows_of(tick)}

    assert run_ticks(config_of(tmp_path, QUESTIONS), two_minds) == 0  # nothing new, but the tick was not gone through
    num_unsure = check(tick, range(20), QUESTIONS)
    note = json.loads((tick / "relabel.json").read_text())
    assert (note["uncertain"], note["answered"], note["changed"]) == (num_unsure,) * 3
    assert f"{num_unsure} uncertain answers, {num_unsure} given again" in capsys.readouterr().out
    assert len(rows_of(tick / "relabel")) == num_unsure
    assert {(row["sample_id"], row["prompt"]): row["device_s"] for row in rows_of(tick)} == first  # its own accounts
    assert read_counts(Storage(str(tick)), "a").num_ok == len(first)

    stamp = (tick / "relabel" / "run.json").stat().st_mtime_ns
    write_tar(tmp_path / "in" / "b.tar", [member for n in range(20, 30) for member in sample_members(n)])
    assert run_ticks(config_of(tmp_path, QUESTIONS), two_minds) == 0
    assert check(tick, range(20), QUESTIONS) == num_unsure, "those still unsure at full depth are left alone"
    assert (tick / "relabel" / "run.json").stat().st_mtime_ns == stamp
    check(tmp_path / "out" / "ticks" / "000002", range(20, 30), QUESTIONS)
    assert run_ticks(config_of(tmp_path, QUESTIONS), two_minds) == 0
    assert not (tmp_path / "out" / "ticks" / "000003").exists()


def test_a_kill_while_answers_are_replaced_is_mended(
    tmp_path: Path, ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        numbers = range(10 * shard, 10 * shard + 10)
        write_tar(tmp_path / "in" / f"{shard}.tar", [member for n in numbers for member in sample_members(n)])
    replaced, calls = relabel.replaced, []

    def killed(*tables: Any) -> Any:
        calls.append(tables)
        if len(calls) == 5:  # three comparisons, then the second file to be replaced
            raise KeyboardInterrupt
        return replaced(*tables)

    monkeypatch.setattr(relabel, "replaced", killed)
    with pytest.raises(KeyboardInterrupt):
        run_ticks(config_of(tmp_path, QUESTIONS), two_minds)
    monkeypatch.undo()
    tick = tmp_path / "out" / "ticks" / "000001"
    texts = [row["text"] for row in rows_of(tick)]
    assert 0 < sum(text.endswith("!") for text in texts) < len(rows_of(tick / "relabel"))
    assert run_ticks(config_of(tmp_path, QUESTIONS), two_minds) == 0
    num_unsure = check(tick, range(30), QUESTIONS)
    note = json.loads((tick / "relabel.json").read_text())
    assert (note["uncertain"], note["answered"], note["changed"]) == (num_unsure,) * 3


def test_no_uncertain_answer_no_run(tmp_path: Path, ray: None) -> None:
    write_tar(tmp_path / "in" / "a.tar", sample_members(1))
    assert run_ticks(config_of(tmp_path, ["why?"], limit=0.01), two_minds) == 0
    tick = tmp_path / "out" / "ticks" / "000001"
    assert json.loads((tick / "relabel.json").read_text())["uncertain"] == 0
    assert not (tick / "relabel" / "run.json").exists()


def test_full_depth_has_nothing_to_give_again(tmp_path: Path) -> None:
    job = config_of(tmp_path, QUESTIONS).model_dump(mode="json")
    with pytest.raises(ValueError, match="relabel_below is for early exits"):
        VqaConfig.model_validate({**job, "engine": {**job["engine"], "schedule": "full"}})
