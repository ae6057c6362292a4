"""The runs whose texts are learned: which are made, over what, by which settings, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.training.rows.row_source import NO_TEXT, RowSource
from actors.training.rows.target_runs import known_shards
from conf.checkpoint_files import read_model_config
from conf.errors import UserError
from conf.pretrained import PretrainedConfig
from conf.rows import TargetConfig
from jobs.caption import ROWS_FAILED
from jobs.shared.job_arguments import SHIPPED_CHECKPOINT
from jobs.shared.own_texts import TextsStopped, own_runs
from tests.jobs.text_runs import FakeRuns, Killed, runs
from tests.pipeline.small_run import done_rows
from tests.shards import image_bytes, write_shards

__all__ = ["runs"]
PLAN = read_model_config(SHIPPED_CHECKPOINT).plan


def config_of(root: Path, **changes: Any) -> PretrainedConfig:
    """Four shards of three images."""
    if not (root / "in").is_dir():
        write_shards(root / "in", 4, 3)
    values = {
        "source": {"paths": [f"{root}/in/*.tar"]}, "checkpoint": str(SHIPPED_CHECKPOINT), "output": str(root / "out"),
        "max_new_tokens": 20, "num_slots": 4, "device": "cpu",
    }  # fmt: skip
    return PretrainedConfig.model_validate({**values, **changes})


def folder_of(root: Path, *names: str) -> dict[str, Any]:
    (root / "photos").mkdir(exist_ok=True)
    for name in names:
        (root / "photos" / name).write_bytes(image_bytes((len(name), 2, 3)))
    return {"source": {"kind": "images", "paths": [str(root / "photos")]}}


def naming(config: PretrainedConfig, *runs: object) -> PretrainedConfig:
    """Return the configuration with a run named as the target of each task; None leaves a task as it is."""
    first, *others = (
        task if run is None else task.model_copy(update={"target": TargetConfig(run=str(run))})
        for task, run in zip(config.all_tasks, runs, strict=True)
    )
    return config.model_copy(update={"target": first.target, "tasks": tuple(others)})


def shards_of(run: str | None) -> set[str]:
    return {shard.name for shard in known_shards([run])}


def test_the_run_asks_the_checkpoint_at_full_depth(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path, decoder_prefix="a picture of", preprocess={"max_pixels": 1000})
    assert own_runs(config) == (str(tmp_path / "out" / "targets"),)
    (job,) = runs.jobs
    assert (job.engine.schedule.value, job.engine.num_slots) == ("full", 4)
    assert (job.engine.generation.max_new_tokens, job.engine.generation.decoder_prefix) == (20, "a picture of")
    assert (job.model.checkpoint, job.model.device) == (str(SHIPPED_CHECKPOINT), "cpu")
    assert (job.preprocess, job.source) == (config.preprocess, config.source)


def test_a_longer_text_than_the_decoder_has_positions_for_is_not_asked_for(tmp_path: Path, runs: FakeRuns) -> None:
    own_runs(config_of(tmp_path, max_new_tokens=5000))
    assert runs.jobs[0].engine.generation.max_new_tokens == 96


def test_only_the_shards_that_training_uses_are_captioned(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path, max_images=5)
    (run,) = own_runs(config)
    used = RowSource(config, PLAN, known_shards([run]))
    assert {shard.name for shard in used.shards} == shards_of(run)
    assert len(shards_of(run)) == 2
    assert len(used.places) == 5
    said = done_rows(str(run))
    assert all((f"{used.shards[place.shard].name}/{place.sample.key}", 0) in said for place in used.places)


def test_every_task_without_labels_has_a_run_over_the_same_shards(tmp_path: Path, runs: FakeRuns) -> None:
    tasks = [
        {"prompt": {"template": "which number?"}, "target": {"field": "number"}},
        {"prompt": {"template": "{question}"}},
    ]
    config = config_of(tmp_path, tasks=tasks, max_images=5)
    first, labelled, second = own_runs(config)
    assert (runs.outputs, labelled) == (["targets", "targets-2"], None)
    assert shards_of(first) == shards_of(second)
    assert {text.rpartition(": ")[2] for text in done_rows(str(second)).values()} <= {
        f"how many in {n}?" for n in range(12)
    }
    assert own_runs(naming(config, first, None, second)) == (first, labelled, second)
    assert runs.outputs == ["targets", "targets-2"], "a run that is named is not made"


def test_a_killed_run_is_continued_by_the_same_command(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path, max_images=5, source={"paths": [f"{tmp_path}/in/*.tar"], "chunk_rows": 2})
    runs.chunks_left = 1
    with pytest.raises(Killed):
        own_runs(config)
    begun = shards_of(f"{config.output}/targets")
    assert len(begun) == 2
    write_shards(tmp_path / "in", 9, 3)  # which would have given others
    runs.chunks_left = None
    (run,) = own_runs(config)
    assert shards_of(run) == begun
    assert len(done_rows(str(run))) == 6


def test_images_that_came_after_the_run_are_not_trained_on_and_counted(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path, **folder_of(tmp_path, "b.png", "d.png", "f.png", "h.png"))
    (run,) = own_runs(config)
    before = RowSource(config, PLAN, known_shards([run]))
    folder_of(tmp_path, "a.png", "c.png", "z.png")
    assert own_runs(config) == (run,)
    grown = RowSource(config, PLAN, known_shards([run]))
    assert grown.places == before.places
    assert [(part.reason, part.count) for part in grown.left_out] == [("no_text", 3)]
    assert {key for key, _ in done_rows(str(run))} == {f"photos/{name}.png" for name in "bdfh"}
    told = done_rows(str(run))
    rows = grown.read(grown.places, lambda row: row if (row.sample_id, row.prompt_index) in told else NO_TEXT)
    assert all(image is not None for image in rows)


def test_shards_that_came_after_the_run_do_not_displace_its_own(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path, max_images=5)
    (run,) = own_runs(config)
    before = RowSource(config, PLAN, known_shards([run]))
    write_shards(tmp_path / "in", 9, 3)
    after = RowSource(config, PLAN, known_shards([run]))
    names = [
        [source.shards[place.shard].name + place.sample.key for place in source.places] for source in (before, after)
    ]
    assert names[0] == names[1]
    assert not after.left_out


def test_images_that_have_a_label_of_one_task_and_no_text_of_another_are_left_out(
    tmp_path: Path, runs: FakeRuns
) -> None:
    tasks = [{"prompt": {"template": "what?"}, "target": {"template": "{number}"}}]
    config = config_of(tmp_path, tasks=tasks)
    (run, _) = own_runs(config)
    write_shards(tmp_path / "in", 5, 3)
    source = RowSource(config, PLAN, known_shards([run]))
    told = done_rows(str(run))
    images = source.read(source.places, lambda row: row if row.task or (row.sample_id, 0) in told else NO_TEXT)
    assert [len(image.rows) for image in images if image] == [2] * 12
    assert [(part.reason, part.count) for part in source.left_out] == [("no_text", 3)]


def test_rows_that_failed_in_the_run_are_left_out_and_counted(tmp_path: Path, runs: FakeRuns) -> None:
    write_shards(tmp_path / "in", 2, 3, broken=("empty",))
    config = config_of(tmp_path)
    (run,) = own_runs(config)
    source, told = RowSource(config, PLAN, known_shards([run])), done_rows(str(run))
    images = list(source.read(source.places, lambda row: row if (row.sample_id, 0) in told else NO_TEXT))
    assert (len(images), images.count(None)) == (8, 2)
    assert [(part.reason, part.count) for part in source.left_out] == [("no_text", 2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_new_tokens": 21}, "max_new_tokens"),
        ({"decoder_prefix": "a"}, "decoder_prefix"),
        ({"preprocess": {"scaled_decode": True}}, "scaled_decode"),
    ],
)
def test_a_run_of_other_settings_is_not_continued(
    tmp_path: Path, runs: FakeRuns, change: dict[str, Any], said: str
) -> None:
    own_runs(config_of(tmp_path))
    with pytest.raises(UserError, match=rf"another configuration .*{said}.*another --out, or delete .*out/targets"):
        own_runs(config_of(tmp_path, **change))


def test_a_replaced_shard_is_told(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path)
    own_runs(config)
    write_shards(tmp_path / "in", 1, 9)
    with pytest.raises(UserError, match=r"part-000' .*has changed .*another --out, or delete .*out/targets"):
        own_runs(config)


def test_a_field_that_no_sample_has_is_told_before_anything_is_written(tmp_path: Path, runs: FakeRuns) -> None:
    source = {"paths": [f"{tmp_path}/in/*.tar"], "prompt": {"template": "{qestion}"}}
    with pytest.raises(UserError, match="did you mean 'question'"):
        own_runs(config_of(tmp_path, source=source))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", [ROWS_FAILED, 5, 130, 143])
def test_a_run_that_is_stopped_stops_training_with_its_exit_code(tmp_path: Path, runs: FakeRuns, code: int) -> None:
    runs.ends_with = code
    with pytest.raises(TextsStopped) as stopped:
        own_runs(config_of(tmp_path))
    assert stopped.value.exit_code == code


def test_a_run_in_which_nothing_succeeded_is_nothing_to_learn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = (ROWS_FAILED, {"status": "nothing_succeeded", "counts": {}})
    monkeypatch.setattr("jobs.caption.run_job", lambda *_, **__: ended)
    with pytest.raises(TextsStopped):
        own_runs(config_of(tmp_path))
    assert "delete " in capsys.readouterr().err


def test_a_run_that_is_named_is_used_as_it_is(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path)
    (run,) = own_runs(config)
    runs.jobs.clear()
    other = naming(config_of(tmp_path, output=str(tmp_path / "other"), max_new_tokens=5), str(run))
    assert own_runs(other) == (run,)
    assert runs.jobs == []


def test_what_a_named_run_must_be(tmp_path: Path, runs: FakeRuns) -> None:
    config = config_of(tmp_path)
    (run,) = own_runs(config)
    assert run is not None
    with pytest.raises(UserError, match=r"is not the output of a run: it has neither run.json nor results"):
        own_runs(naming(config, tmp_path / "nowhere"))
    asked = {"paths": [f"{tmp_path}/in/*.tar"], "prompt": {"template": "what is it?"}}
    with pytest.raises(UserError, match=r"asked something else: .*'describe the image' there and is 'what is it"):
        own_runs(naming(config_of(tmp_path, source=asked), run))
    write_shards(tmp_path / "elsewhere", 4, 3)
    with pytest.raises(UserError, match=r"read other shards than those of .*elsewhere"):
        own_runs(naming(config_of(tmp_path, source={"paths": [f"{tmp_path}/elsewhere/*.tar"]}), run))
    with pytest.raises(UserError, match=r"read a source of kind webdataset, not .*photos"):
        own_runs(naming(config_of(tmp_path, **folder_of(tmp_path, "a.png")), run))
    write_shards(tmp_path / "in", 1, 7)
    with pytest.raises(UserError, match=r"part-000' .*has changed .*run deed caption over it"):
        own_runs(naming(config, run))
    record = json.loads((Path(run) / "run.json").read_text())
    (Path(run) / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with pytest.raises(UserError, match="not the output of a run that has ended; run its command again"):
        own_runs(naming(config, run))


def test_runs_that_divide_a_folder_differently_are_told(tmp_path: Path, runs: FakeRuns) -> None:
    tasks = [{"prompt": {"template": "describe the image"}}]
    config = config_of(tmp_path, **folder_of(tmp_path, "a.png", "b.png"))
    (first,) = own_runs(config)
    folder_of(tmp_path, "c.png")
    (second,) = own_runs(config.model_copy(update={"output": str(tmp_path / "other")}))
    both = naming(config_of(tmp_path, **folder_of(tmp_path), tasks=tasks), first, second)
    with pytest.raises(UserError, match=r"divides .*photos into other shards"):
        own_runs(both)


def test_ray_is_not_needed_where_there_is_nothing_to_write(tmp_path: Path, runs: FakeRuns) -> None:
    (run,) = own_runs(config_of(tmp_path))
    tasks = [{"prompt": {"template": "what?"}, "target": {"template": "{number}"}}]
    config = naming(config_of(tmp_path, tasks=tasks), run, None)
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from conf.pretrained import PretrainedConfig\n"
        "from jobs.shared.own_texts import own_runs\n"
        "print(own_runs(PretrainedConfig.model_validate_json(sys.stdin.read())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=config.model_dump_json(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str((run, None))
