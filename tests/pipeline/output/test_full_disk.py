"""An output that takes no more, at any write: one sentence, nothing half-written, and the next run goes on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.errors import OutputFailed
from conf.schema import JobConfig
from pipeline.output import storage as storage_module
from pipeline.output.ledger import Ledger
from pipeline.output.run_record import RunRecord
from pipeline.output.storage import Storage, is_temporary
from tests.pipeline.output.test_ledger import INFO
from tests.pipeline.output.test_ledger import config as any_config
from tests.pipeline.output.test_run_record import FIT
from tests.pipeline.small_run import done_rows, small_run
from tests.shards import write_shards

ROWS = 6


class Disk:
    """Counts writes, and takes no more from the n-th on; at the worst moment, when the file is there in part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.left: int | None = None
        self.code = code
        write: Callable[[str, bytes], None] = storage_module._write_synced

        def limited(path: str, data: bytes) -> None:
            if self.left == 0:
                write(path, data[: len(data) // 2])
                raise OSError(self.code, os.strerror(self.code))
            self.left = None if self.left is None else self.left - 1
            write(path, data)

        monkeypatch.setattr(storage_module, "_write_synced", limited)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS"])
def test_a_disk_that_is_full_from_any_write_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_shards(tmp_path / "in", 1, ROWS)
    disk = Disk(monkeypatch, getattr(errno, name))
    for writes in range(100):
        config = config_for(tmp_path, f"out-{writes}")
        disk.left = writes
        said = failure_of(lambda config=config: small_run(config))  # type: ignore[misc]
        if said is None:
            assert writes > 5, "there are more writes than that"
            break
        assert os.strerror(disk.code) in said
        assert "\n" not in said
        assert not [path for path in Storage(config.output.path).walk("") if is_temporary(path)]
        disk.left = None
        small_run(config)
        assert len(done_rows(config.output.path)) == ROWS


def failure_of(work: Callable[[], object]) -> str | None:
    try:
        work()
    except OutputFailed as error:
        return str(error)
    return None


def config_for(root: Path, out: str) -> JobConfig:
    source: dict[str, Any] = {"paths": [f"{root}/in/*.tar"], "chunk_rows": 2}
    return any_config(source=source, output={"path": str(root / out)})


def test_what_ended_the_run_is_told_though_its_record_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, disk = Storage(str(tmp_path)), Disk(monkeypatch, errno.ENOSPC)
    record = RunRecord(storage, any_config(), INFO, {}, FIT, Ledger([])).__enter__()
    disk.left = 0
    record.__exit__(OutputFailed, OutputFailed("the first"), None)
    disk.left = None
    record = RunRecord(storage, any_config(), INFO, {}, FIT, Ledger([])).__enter__()
    disk.left = 0
    with pytest.raises(OutputFailed, match="No space left"):
        record.__exit__(None, None, None)
