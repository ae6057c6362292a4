"""Manifests through the whole run: odd records end in results or errors, each once, and what is appended is added."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.output.publish import ERRORS, RESULTS
from pipeline.output.storage import Storage
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes

IMAGE = image_bytes((1, 2, 3), (4, 4))


def config_for(root: Path, *paths: str, **source: Any) -> JobConfig:
    source = {"kind": "manifest", "paths": paths, "chunk_rows": 3, "retry": {"outage_s": 0}, **source}
    return JobConfig.model_validate(
        {"source": source, "model": {"checkpoint": "c"}, "output": {"path": str(root / "out")}}
    )


def texts_of(root: Path, folder: str, column: str) -> list[Any]:
    storage = Storage(str(root / "out"))
    return [v for name in storage.names(folder) for v in storage.read_table(f"{folder}/{name}")[column].to_pylist()]


def test_every_odd_record_is_in_results_or_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    data_uri = "data:image/png;base64," + base64.b64encode(IMAGE).decode()
    lines = [
        b'\xef\xbb\xbf{"uri": "a.png", "q": "one"}\r',
        json.dumps({"uri": data_uri, "q": "two"}).encode(),
        b'{"uri": "file://%s/%%61.png", "q": "\\ud83d half"}' % str(tmp_path).encode(),
        b'{"uri": "a.png", "q": "latin \xe9"}',
        b'{"uri": "a.png", "q": "zero \\u0000"}',
        b'{"uri": null, "q": "x"}',
        b'{"uri": 7, "q": "x"}',
        b'{"uri": "caf\xe9 \\ud83d.png", "q": "x"}',
        b'{"uri": "data:image/png;base64,%s", "q": "x"}' % (b"!" * 5000),
        b'{"uri": "gopher://a/b", "q": "x"}',
        b"[" * 10_000,
        b'{"uri": "a.png", "q": "%s"}' % (b"x" * 20_000),
        b"null",
        b'{"uri": "a.png"}',
        b"{broken",
    ]
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    source = {"prompt": {"template": "{q}"}, "passthrough": ["q", "uri"], "table": {"max_record_bytes": 10_500}}
    small_run(config_for(tmp_path, str(tmp_path / "m.jsonl"), **source))
    done, failed = done_rows(str(tmp_path / "out")), error_rows(str(tmp_path / "out"))
    assert (len(done), len(failed)) == (5, len(lines) - 5)
    assert all(len(message) < 500 for message in texts_of(tmp_path, ERRORS, "message"))
    assert "\\ud83d half" in texts_of(tmp_path, RESULTS, "prompt")
    assert "latin \\udce9" in texts_of(tmp_path, RESULTS, "prompt")


def test_what_is_appended_is_added_and_what_was_done_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one, two = (tmp_path / folder / "list.txt" for folder in ("one", "two"))
    one.write_text("../a.png\n" * 5 + "../gone.png")
    config = config_for(tmp_path, str(tmp_path / "*" / "list.txt"))
    small_run(config)
    first = done_rows(str(tmp_path / "out"))
    assert (len(first), len(error_rows(str(tmp_path / "out")))) == (5, 1)
    one.write_text("../a.png\n" * 5 + "../gone.png\n" + "../a.png\n" * 4)
    two.write_text("../a.png\n" * 2)
    for _ in range(2):  # the second time there is nothing to do
        small_run(config)
        done = done_rows(str(tmp_path / "out"))
        assert first.items() < done.items()
        assert (len(done), len(error_rows(str(tmp_path / "out")))) == (11, 1)
    one.write_text("../a.png\n" * 3)
    with pytest.raises(UserError, match="has changed since this output was begun"):
        small_run(config)
