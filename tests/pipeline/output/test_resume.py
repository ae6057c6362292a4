"""What a run may do with an output is decided while it holds it, whatever it found there before."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conf.checkpoint_info import read_checkpoint_info
from conf.errors import OutputLost, UserError
from conf.schema import JobConfig
from conf.vqa import VqaConfig
from jobs.vqa import run_ticks
from pipeline import run as pipeline_run
from pipeline.output import incarnation
from pipeline.output.lease import Lease
from pipeline.output.ledger import RUN_NAME, known_shards, save_plan
from pipeline.output.publish import publish_shard, write_engine_stats
from pipeline.output.resume import begin, decide
from pipeline.output.settings import CONFIG_NAME, content_settings, save_settings
from pipeline.output.staging import chunk_name, rows_table, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.readers import make_reader
from tests.integration.corpus import fake_spec, make_config, write_shards
from tests.pipeline.helpers import good_row, index_of, stage


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    write_shards(tmp_path / "in", 1, 3)
    return make_config(tmp_path)


def begun(config: JobConfig) -> Storage:
    """A run that did nothing but begin, and was killed or has ended since."""
    info, reader = read_checkpoint_info(config.model.checkpoint), make_reader(config.source)
    settings = content_settings(config, info)
    with Lease(Storage(config.output.path)) as lease:
        return begin(decide(lease.storage, config, settings, reader), config, settings, reader).storage


def run_after(monkeypatch: pytest.MonkeyPatch, config: JobConfig, meanwhile: Callable[[], Any]) -> Any:
    """Run, with something happening while Ray starts."""

    @contextmanager
    def slow_ray() -> Iterator[None]:
        meanwhile()
        yield

    monkeypatch.setattr(pipeline_run, "ray_cluster", slow_ray)
    monkeypatch.setattr(pipeline_run, "fit_cluster", lambda _: None)
    return pipeline_run.run(config, read_checkpoint_info(config.model.checkpoint), fake_spec(config))


def with_prompt(config: JobConfig, text: str) -> JobConfig:
    source = {**config.source.model_dump(mode="json"), "prompt": {"template": text}}
    return JobConfig.model_validate({**config.model_dump(mode="json"), "source": source})


def test_a_run_of_another_prompt_that_came_in_between_is_noticed(
    config: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Storage(config.output.path)
    with pytest.raises(UserError, match="was made with another configuration") as refused:
        run_after(monkeypatch, with_prompt(config, "another"), lambda: begun(config))
    assert refused.value.exit_code == 2
    saved = json.loads(output.read(CONFIG_NAME))["settings"]
    assert "another" not in json.dumps(saved)


def test_a_shard_replaced_in_between_is_noticed(config: JobConfig, tmp_path: Path, monkeypatch: Any) -> None:
    def meanwhile() -> None:
        begun(config)
        storage = incarnation.current(Storage(config.output.path))
        save_plan(storage, {}, [replace(shard, weight=1) for shard in known_shards(storage).values()])

    with pytest.raises(UserError, match="has changed since this output was begun"):
        run_after(monkeypatch, config, meanwhile)


def test_on_existing_fail_refuses_what_was_begun_in_between(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    careful = config.model_copy(update={"output": config.output.model_copy(update={"on_existing": "fail"})})
    with pytest.raises(UserError, match="holds a run already"):
        run_after(monkeypatch, careful, lambda: begun(config))


def test_what_another_run_has_finished_in_between_is_not_done_again(
    config: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile() -> None:
        storage = begun(config)
        with Lease(storage) as lease:
            storage = lease.storage
            stage(storage, index_of(1, 16), 0, [good_row(0, shard="part-000")], shard="part-000")
            publish_shard(storage, "part-000")
            storage.remove_folder("_staging")
            storage.write(RUN_NAME, json.dumps({"status": "complete", "by": "the other"}).encode())

    assert run_after(monkeypatch, config, meanwhile)["by"] == "the other"


@pytest.mark.parametrize("anew", [False, True])
def test_an_old_publisher_that_wakes_up_writes_nothing(config: JobConfig, tmp_path: Path, anew: bool) -> None:
    """Neither into the run that continues the output nor into one that began it anew; only chunks of the same
    incarnation are welcome."""
    info, reader = read_checkpoint_info(config.model.checkpoint), make_reader(config.source)
    settings = content_settings(config, info)
    asleep = Lease(Storage(config.output.path))
    with asleep:
        old = begin(decide(asleep.storage, config, settings, reader), config, settings, reader).storage
        stage(old, index_of(2, 2), 0, [good_row(0), good_row(1)])
    if anew:
        config = config.model_copy(update={"output": config.output.model_copy(update={"on_existing": "overwrite"})})
    with Lease(Storage(config.output.path)) as lease:
        new = begin(decide(lease.storage, config, settings, reader), config, settings, reader).storage
        before = {name: new.read(name) for name in new.walk("")}
        for attempt in (
            lambda: publish_shard(old, "s"),
            lambda: write_engine_stats(old, "a", []),
            lambda: old.write(RUN_NAME, b"{}"),
            lambda: old.remove_folder("_staging"),
        ):
            with pytest.raises(OutputLost):
                attempt()
        assert {name: new.read(name) for name in new.walk("")} == before
        stage_chunk(old.permitted_by(None), "s", 0, rows_table([good_row(0), good_row(1)]))
        assert new.exists(chunk_name(new, "s", 0)) is not anew


def test_ticks_of_another_configuration_that_came_in_between_are_noticed(tmp_path: Path, monkeypatch: Any) -> None:
    """`deed vqa` too: it is checked once more when the output is held."""
    write_shards(tmp_path / "in", 1, 1)
    values = make_config(tmp_path).model_dump(mode="json")
    values["source"]["passthrough"] = []
    config = VqaConfig.model_validate({**values, "questions": {"ask": ["what?"]}})
    enter = Lease.__enter__

    def after_another(self: Lease) -> Lease:
        monkeypatch.undo()
        with Lease(Storage(config.output.path)) as other:
            save_settings(other.storage, {"engine.kv": "something else"})
        return enter(self)

    monkeypatch.setattr(Lease, "__enter__", after_another)
    with pytest.raises(UserError, match="was made with another configuration"):
        run_ticks(config, fake_spec)
    assert Storage(config.output.path).walk("ticks") == []
