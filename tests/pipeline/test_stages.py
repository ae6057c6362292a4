"""The CPU stages without Ray: shards become chunks, samples become pixels, prompts or error rows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conf.image_plan import ImagePlan
from conf.source import PromptConfig, RetryConfig
from pipeline.chunk import from_ipc
from pipeline.output.staging import load_index
from pipeline.output.storage import Storage
from pipeline.source.plan import Contents, Listing, Sample, Shard
from pipeline.source.prompts import limit_of, make_prompts
from pipeline.source.readers import RawSample, ReadFailure
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.source.shard_index import ShardIndex
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from pipeline.text import original
from tests.shards import image_bytes, sample_members, write_tar

IMAGE_SIZE = 32


def tasks_table(*tasks: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(tasks))


def prepare_all(
    reader: Any, shard: Shard, storage: Storage, chunk_rows: int = 4, staged: Sequence[int] = (), **options: Any
) -> list[tuple[int, list[dict[str, Any]], Any]]:
    """(chunk, rows, pixels) of every chunk of a shard."""
    settings = {"prompt": PromptConfig(), "id_column": None, "passthrough": (), "max_pixels": 10_000, **options}
    prepare = PrepareChunk(reader, plan=ImagePlan.squeeze(IMAGE_SIZE), **settings)
    found = []
    for tasks in IndexShard(reader, storage, chunk_rows)(tasks_table(shard_task(shard, staged))):
        for chunk in prepare(tasks):
            row = chunk.to_pylist()[0]
            pixels = np.frombuffer(row["pixels"], np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3)
            found.append((row["chunk"], from_ipc(row["rows"]).to_pylist(), pixels))
    return found


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "out"))


def shard_with(tmp_path: Path, members: list[tuple[str, bytes]], name: str = "a.tar") -> tuple[WebDatasetReader, Shard]:
    path = write_tar(tmp_path / name, members)
    return WebDatasetReader((str(path),)), Shard("a", str(path), path.stat().st_size)


def ten_samples() -> list[tuple[str, bytes]]:
    return [member for number in range(10) for member in sample_members(number)]


def test_chunks_hold_every_row_in_order_with_its_pixels(tmp_path: Path, storage: Storage) -> None:
    reader, shard = shard_with(tmp_path, ten_samples())
    chunks = prepare_all(reader, shard, storage)
    assert [chunk for chunk, _, _ in chunks] == [0, 1, 2]
    rows = [row for _, rows, _ in chunks for row in rows]
    assert [(row["row"], row["sample_id"]) for row in rows] == [(n, f"a/{n:06d}") for n in range(10)]
    assert [len(pixels) for _, _, pixels in chunks] == [4, 4, 2]
    for number, row in enumerate(rows):
        assert tuple(chunks[number // 4][2][row["pixel_index"]][5, 5]) == (number % 251, 7 * number % 251, 100)


def test_staged_chunks_are_skipped_and_the_first_index_is_kept(tmp_path: Path, storage: Storage) -> None:
    reader, shard = shard_with(tmp_path, ten_samples())
    prepare_all(reader, shard, storage, chunk_rows=4)
    again = prepare_all(reader, shard, storage, chunk_rows=99, staged=[0, 2])
    assert [(chunk, [row["row"] for row in rows]) for chunk, rows, _ in again] == [(1, [4, 5, 6, 7])]
    index = load_index(storage, "a")
    assert index is not None
    assert index.chunk_rows == 4


def test_a_compressed_shard_is_read_in_one_task(tmp_path: Path, storage: Storage) -> None:
    import gzip

    reader, shard = shard_with(tmp_path, ten_samples())
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    shard = Shard("a", str(packed), 1)
    tasks = list(IndexShard(reader, storage, 4)(tasks_table(shard_task(shard, [1]))))
    assert [table["chunks"].to_pylist() for table in tasks] == [[[0, 2]]]
    chunks = prepare_all(reader, shard, storage, staged=[1])
    assert [(chunk, [row["row"] for row in rows]) for chunk, rows, _ in chunks] == [(0, [0, 1, 2, 3]), (2, [8, 9])]


def test_an_empty_shard_still_makes_one_chunk(tmp_path: Path, storage: Storage) -> None:
    reader, shard = shard_with(tmp_path, [])
    ((chunk, rows, pixels),) = prepare_all(reader, shard, storage)
    assert (chunk, rows, len(pixels)) == (0, [], 0)


def test_bad_samples_become_rows_with_stage_type_and_place(tmp_path: Path, storage: Storage) -> None:
    members = [
        ("good.png", image_bytes((1, 2, 3))),
        ("text.jpg", b"no image"),
        ("big.png", image_bytes((0, 0, 0), (200, 200))),
        ("lonely.txt", b"no image member"),
        ("last.png", image_bytes((4, 5, 6), (20, 50))),
    ]
    reader, shard = shard_with(tmp_path, members)
    ((_, rows, pixels),) = prepare_all(reader, shard, storage, chunk_rows=10)
    assert [(r["key"], r["stage"], r["error_type"], r["pixel_index"]) for r in rows] == [
        ("good", None, None, 0),
        ("text", "preprocess", "not_an_image", None),
        ("big", "preprocess", "too_many_pixels", None),
        ("lonely", "read", "no_image", None),
        ("last", None, None, 1),
    ]
    assert all("a/" + r["key"] in r["message"] for r in rows if r["message"])
    assert (rows[4]["width"], rows[4]["height"]) == (20, 50)
    assert len(pixels) == 2


def test_prompts_ids_and_passthrough_come_from_the_samples_fields(tmp_path: Path, storage: Storage) -> None:
    members = [m for n in range(2) for m in sample_members(n, url=f"http://x/{n}", tags=["ä", 1])]
    reader, shard = shard_with(tmp_path, members)
    prompt = PromptConfig(template="Q: {question} {number}")
    ((_, rows, _),) = prepare_all(
        reader, shard, storage, prompt=prompt, id_column="url", passthrough=("tags", "absent", "number")
    )
    assert [row["prompt"] for row in rows] == ["Q: how many in 0? 0", "Q: how many in 1? 1"]
    assert [row["sample_id"] for row in rows] == ["http://x/0", "http://x/1"]
    assert [(r["src_tags"], r["src_absent"], r["src_number"]) for r in rows] == [
        ('["ä", 1]', None, "0"),
        ('["ä", 1]', None, "1"),
    ]


def test_half_characters_in_prompts_ids_and_fields_cost_nothing(tmp_path: Path, storage: Storage) -> None:
    half, quoted = chr(0xD83D), "C:\\ud83d"
    members = [m for n, said in enumerate((half, quoted, "ä")) for m in sample_members(n, said=said, tags=[said])]
    reader, shard = shard_with(tmp_path, members)
    asked = {"prompt": PromptConfig(template="What is {said}?"), "id_column": "said", "passthrough": ("said", "tags")}
    ((_, rows, _),) = prepare_all(reader, shard, storage, **asked)
    assert [row["stage"] for row in rows] == [None] * 3
    for row, said in zip(rows, (half, quoted, "ä"), strict=True):
        assert original(row["sample_id"]) == original(row["src_said"]) == said
        assert original(row["prompt"]) == f"What is {said}?"
        assert [original(tag) for tag in json.loads(row["src_tags"])] == [said]


def test_several_prompts_share_the_pixels_of_their_image(tmp_path: Path, storage: Storage) -> None:
    questions = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": "2"}]
    reader, shard = shard_with(tmp_path, sample_members(0, qa=questions) + sample_members(1))
    prompt = PromptConfig(template="{question}", list_field="qa")
    ((_, rows, pixels),) = prepare_all(reader, shard, storage, prompt=prompt, passthrough=("answer",))
    assert [
        (r["prompt"], r["prompt_index"], r["num_prompts"], r["pixel_index"], r["src_answer"]) for r in rows[:2]
    ] == [
        ("a?", 0, 2, 0, "1"),
        ("b?", 1, 2, 0, "2"),
    ]
    assert (rows[2]["stage"], rows[2]["error_type"], rows[2]["num_prompts"]) == ("read", "no_prompt", 1)
    assert len(pixels) == 1


def test_a_sample_or_a_prompt_may_have_its_own_limit(tmp_path: Path, storage: Storage) -> None:
    questions = [{"question": "a?", "limit": 3}, {"question": "b?"}]
    members = sample_members(0, qa=questions, limit=9) + sample_members(1, qa=questions, limit="few")
    reader, shard = shard_with(tmp_path, members)
    prompt = PromptConfig(template="{question}", list_field="qa", limit_field="limit")
    ((_, rows, _),) = prepare_all(reader, shard, storage, prompt=prompt)
    assert [(r["prompt"], r["max_new_tokens"]) for r in rows[:2]] == [("a?", 3), ("b?", 9)]
    assert [(r["prompt"], r["prompt_index"], r["error_type"]) for r in rows[2:]] == [
        ("a?", 0, None),
        ("b?", 1, "bad_limit"),
    ]
    assert "field 'limit' must be a number of tokens, at least 1, got 'few'" in rows[3]["message"]


@pytest.mark.parametrize(("given", "limit"), [(7, 7), ("7", 7), (7.0, 7), (None, None), ("", None)])
def test_limits_are_numbers_of_tokens(given: Any, limit: int | None) -> None:
    assert limit_of(PromptConfig(limit_field="most"), {"most": given}) == limit
    assert limit_of(PromptConfig(), {"most": given}) is None


@pytest.mark.parametrize("given", [0, -1, 2.5, "2.5", True, [3], 2**31, float("inf"), float("nan")])
def test_other_limits_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="field 'most' must be a number of tokens"):
        limit_of(PromptConfig(limit_field="most"), {"most": given})


def test_a_list_of_strings_is_a_list_of_prompts() -> None:
    config = PromptConfig(list_field="questions")
    assert [p.text for p in make_prompts(config, {"questions": ["a?", "b?"]})] == ["a?", "b?"]
    config = PromptConfig(list_field="questions", template="Q: {questions}")
    assert [p.text for p in make_prompts(config, {"questions": ["a?"]})] == ["Q: a?"]


@pytest.mark.parametrize("fields", [{}, {"questions": []}, {"questions": "one"}, {"questions": None}])
def test_no_prompts_is_an_error_with_the_fields_name(fields: dict[str, Any]) -> None:
    with pytest.raises(LookupError, match="questions"):
        make_prompts(PromptConfig(list_field="questions"), fields)


class FailingReader:
    """Storage breaks after the third sample."""

    def shards(self, known: Iterable[Shard]) -> Listing:
        return Listing(())

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return {}

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return [[chunk_index] for chunk_index in todo]

    def with_patience(self, patience: RetryConfig) -> "FailingReader":
        return self

    def index(self, shard: Shard) -> Contents:
        return Contents(tuple(Sample(row, f"k{row}", ()) for row in range(5)))

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        for sample in samples[:3]:
            yield RawSample(sample, image_bytes((1, 1, 1)))
        raise ReadFailure("OSError: connection reset")


def test_a_storage_failure_costs_only_the_samples_not_yet_read(storage: Storage) -> None:
    ((_, rows, pixels),) = prepare_all(FailingReader(), Shard("a", "/a", 1), storage, chunk_rows=10)
    assert [row["error_type"] for row in rows] == [None, None, None, "storage_error", "storage_error"]
    assert "a/k4: OSError: connection reset" in rows[4]["message"]
    assert len(pixels) == 3


class RecoveringReader(FailingReader):
    """Breaks after three samples, in a way that passes, as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        for sample in samples:
            if sample.row == 3 and self.failures:
                self.failures -= 1
                raise ReadFailure("reset") from ConnectionResetError("reset")
            yield RawSample(sample, image_bytes((1, 1, 1)))


def test_a_storage_that_comes_back_is_asked_for_the_rest_only(storage: Storage) -> None:
    patience = RetryConfig(outage_s=30)
    ((_, rows, _),) = prepare_all(RecoveringReader(3), Shard("a", "/a", 1), storage, chunk_rows=10, patience=patience)
    assert [(row["row"], row["error_type"]) for row in rows] == [(n, None) for n in range(5)]


def test_one_that_does_not_is_tried_for_as_long_as_asked(storage: Storage) -> None:
    patience = RetryConfig(outage_s=0.5)
    reader = RecoveringReader(10**9)
    ((_, rows, _),) = prepare_all(reader, Shard("a", "/a", 1), storage, chunk_rows=10, patience=patience)
    assert [row["error_type"] for row in rows] == [None] * 3 + ["storage_error"] * 2
    assert rows[-1]["attempts"] > 1
