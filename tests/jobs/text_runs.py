"""Runs of deed caption that need neither Ray nor a model: the answer of a row is its shard, its key and its prompt."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conf.schema import JobConfig
from jobs.caption import SUCCESS, with_checkpoint
from pipeline.output.storage import Storage
from pipeline.source.readers import Reader
from tests.pipeline.small_run import small_run


class Killed(Exception):
    pass


@dataclass
class FakeRuns:
    """In place of jobs.caption.run_job. `chunks_left`: after so many chunks the process dies."""

    outputs: list[str] = field(default_factory=list)  # of the runs that were asked for
    jobs: list[JobConfig] = field(default_factory=list)
    chunks_left: int | None = None
    ends_with: int | None = None  # an exit code, instead of a run

    def __call__(
        self, config: JobConfig, make_spec: None = None, reader: Reader | None = None, command: str = ""
    ) -> tuple[int, dict[str, Any] | None]:
        self.outputs.append(Path(config.output.path).name)
        self.jobs.append(config)
        if self.ends_with is not None:
            return self.ends_with, None

        def on_chunk(*_: object) -> None:
            if self.chunks_left is not None:
                self.chunks_left -= 1
                if self.chunks_left < 0:
                    raise Killed

        config, info = with_checkpoint(config)
        done = small_run(config, reader, on_chunk, info)
        record = self.finish(config, sum(counts.num_ok for counts in done.published.values()))
        return SUCCESS, record

    @staticmethod
    def finish(config: JobConfig, rows_ok: int, status: str = "complete") -> dict[str, Any]:
        """Write run.json."""
        record = {
            "status": status, "config": config.model_dump(mode="json"), "weights_sha256": "w",
            "counts": {"rows_ok": rows_ok, "rows_error": 0},
        }  # fmt: skip
        Storage(config.output.path).write_json("run.json", record)
        return record


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    fake = FakeRuns()
    monkeypatch.setattr("jobs.caption.run_job", fake)
    return fake
