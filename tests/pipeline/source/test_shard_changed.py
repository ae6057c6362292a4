"""A whole run in which a shard is replaced half-way by another file of the same size."""

import os
from pathlib import Path
from typing import Any

from conf.schema import JobConfig
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes, write_tar

NUM_ROWS = 8


def config_of(folder: Path, **output: Any) -> JobConfig:
    source = {"paths": [f"{folder}/*.tar"], "chunk_rows": 2, "retry": {"outage_s": 0}}
    values = {"source": source, "model": {"checkpoint": "c"}, "output": {"path": f"{folder}/out", **output}}
    return JobConfig.model_validate(values)


def test_rows_of_a_replaced_shard_say_so_until_the_file_is_back(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.png", image_bytes((n, 0, 0))) for n in range(NUM_ROWS)])
    good, time = path.read_bytes(), path.stat().st_mtime

    def replaced(*_: Any) -> None:
        path.write_bytes(bytes(len(good)))
        os.utime(path, (time + 5, time + 5))

    small_run(config_of(tmp_path), on_chunk=replaced)
    url = f"{tmp_path}/out"
    assert sorted(done_rows(url)) == [(f"a/{n}", 0) for n in range(2)]
    assert error_rows(url) == {f"a/{n}": "shard_changed" for n in range(2, NUM_ROWS)}

    path.write_bytes(good)  # a copy, with a time of its own
    small_run(config_of(tmp_path, retry_errors="transient"))
    assert len(error_rows(url)) == NUM_ROWS - 2
    small_run(config_of(tmp_path, retry_errors="all"))
    assert error_rows(url) == {}
    assert len(done_rows(url)) == NUM_ROWS
