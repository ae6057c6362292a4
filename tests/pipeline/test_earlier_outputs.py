"""Outputs that an earlier version has begun are finished by this one (tests/pipeline/old_outputs/make.py)."""

import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.output.output import Output
from pipeline.output.staging import staged_shards
from pipeline.output.storage import Storage
from pipeline.source.readers import manifest
from pipeline.source.readers.folders import folder_shards
from tests.pipeline import small_run as small_run_module
from tests.pipeline.old_outputs.make import ARCHIVE, ASKED, KINDS, PIECE, ROOT, WRITTEN_S, config_for, rewritten, tick
from tests.pipeline.output.test_ledger import INFO
from tests.pipeline.small_run import done_rows, error_rows, small_run


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are as small, and the model is the same."""
    monkeypatch.setattr(small_run_module, "INFO", replace(INFO, weights_sha256="w", architecture_sha256="a"))
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", PIECE)
    monkeypatch.setattr(manifest, "RECORDS_PER_SHARD", PIECE)


def unpack(root: Path, kind: str, *, copied: bool) -> None:
    """What the archive has of a kind, its sources either those that the earlier version listed, or copies of them."""
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            path = root / member.name
            if not member.isfile() or path.relative_to(root).parts[1] != kind:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
            if root / "in" not in path.parents:
                rewritten(path, ROOT, str(root))
            elif not copied:
                os.utime(path, (WRITTEN_S, WRITTEN_S))


def finish(url: str, run: Callable[[Callable[[str, int], None]], object]) -> None:
    """Finish what was begun; nothing that was done is done again."""
    output = Output.at(Storage(url))
    staged = {(name, chunk) for name, own in staged_shards(output.storage).items() for chunk in own.chunks}
    published = output.published()
    done: set[tuple[str, int]] = set()
    run(lambda shard, chunk: done.add((shard, chunk)))
    assert staged, "it was begun"
    assert done, "it was not finished"
    assert not done & staged
    assert not {shard for shard, _ in done} & published
    assert not staged_shards(output.storage)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_finished(tmp_path: Path, kind: str, copied: bool) -> None:
    unpack(tmp_path, kind, copied=copied)
    config = config_for(tmp_path, kind)
    finish(config.output.path, lambda on_chunk: small_run(config, on_chunk=on_chunk))
    url = str(tmp_path / "new")
    values = config.model_dump(mode="json")
    small_run(type(config).model_validate({**values, "output": {**values["output"], "path": url}}))
    assert done_rows(config.output.path) == done_rows(url)
    assert error_rows(config.output.path) == error_rows(url)
    assert len(done_rows(url)) >= 6


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kind", ASKED)
def test_a_tick_is_finished_and_the_next_asks_what_is_new(tmp_path: Path, kind: str, copied: bool) -> None:
    unpack(tmp_path, kind, copied=copied)
    config = config_for(tmp_path, kind, "What is it?", "Where is it?")
    finish(f"{config.output.path}/ticks/000002", lambda on_chunk: tick(config, on_chunk))
    tick(config_for(tmp_path, kind, "What is it?", "Where is it?", "Who is it?"))
    answers = [done_rows(f"{config.output.path}/ticks/00000{number}") for number in (1, 2, 3)]
    first, second, third = ({name for name, _ in rows} for rows in answers)
    assert first == second == third
    assert len(answers[1]) == len(answers[2]) == len(second), "one new question each"
    asked = {text.rpartition(": ")[2] for text in answers[1].values()}
    assert asked == {"Where is it?"}
