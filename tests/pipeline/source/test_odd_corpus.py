"""What goes in comes out: for each reader, every file is a result, an error, beside an image, or left out by reason."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.output.storage import Storage
from pipeline.source.left_out import load_listing
from pipeline.source.plan import sum_left_out
from pipeline.text import storable
from tests.integration.corpus import make_config
from tests.odd_corpus import BESIDE, DONE, write_folder, write_odd_manifest, write_odd_parquet, write_odd_tar
from tests.pipeline.small_run import done_rows, error_rows, small_run


def run(
    tmp_path: Path, kind: str, path: Path, passthrough: list[str]
) -> tuple[Counter[str], Counter[str], dict[str, str]]:
    """(fates of rows, left out by reason, error type by sample)."""
    source: dict[str, Any] = {
        "kind": kind, "paths": [str(path)], "chunk_rows": 16, "passthrough": passthrough, "retry": {"outage_s": 0},
    }  # fmt: skip
    config = make_config(tmp_path, source=source, output={"path": str(tmp_path / "out"), "max_error_fraction": 1.0})
    record = small_run(config)
    done, errors = done_rows(config.output.path), error_rows(config.output.path)
    counts = list(record.published.values())
    left_out = sum_left_out([*load_listing(Storage(config.output.path)), *(p for c in counts for p in c.left_out)])
    fates = Counter({DONE: len(done)}) + Counter(errors.values())
    assert sum(c.num_rows for c in counts) == len(done) + len(errors)
    return fates, Counter({part.reason: part.count for part in left_out}), errors


def expected(fates: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    fates = list(fates)
    rows = Counter(fate for fate in fates if not fate.startswith("left out: "))
    return rows, Counter(fate.removeprefix("left out: ") for fate in fates if fate.startswith("left out: "))


def test_a_folder(tmp_path: Path) -> None:
    fates = write_folder(tmp_path / "photos")
    rows, left_out, errors = run(tmp_path, "images", tmp_path / "photos", ["txt", "title"])
    assert errors == {storable(f"photos/{name}"): fate for name, fate in fates if is_error(fate)}
    assert (rows, left_out) == expected(fate for _, fate in fates)


def test_a_tar(tmp_path: Path) -> None:
    fates = write_odd_tar(tmp_path / "odd.tar")
    rows, left_out, _ = run(tmp_path, "webdataset", tmp_path / "odd.tar", ["txt", "title"])
    # Sidecars of a tar belong to their sample; they are neither rows nor left out.
    assert (rows, left_out) == expected(fate for _, fate in fates if fate != BESIDE)


def test_a_parquet_file(tmp_path: Path) -> None:
    fates = write_odd_parquet(tmp_path / "odd.parquet")
    rows, left_out, _ = run(tmp_path, "parquet", tmp_path / "odd.parquet", ["when", "price", "raw", "tags"])
    assert (rows, left_out) == expected(fates)


def test_a_manifest(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    fates = write_odd_manifest(tmp_path / "list.jsonl", tmp_path / "photos")
    rows, left_out, _ = run(tmp_path, "manifest", tmp_path / "list.jsonl", ["title"])
    assert (rows, left_out) == expected(fates)


def is_error(fate: str) -> bool:
    return fate != DONE and not fate.startswith("left out: ")
