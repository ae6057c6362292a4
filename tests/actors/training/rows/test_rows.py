"""Rows of a tar, a folder, a Parquet file and a manifest: the same ones as the pipeline has, in an exact order."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.training.rows.loader import Loader, Position
from actors.training.rows.row import Row
from actors.training.rows.row_source import RowSource
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.rows import LoadingConfig, RowsConfig
from tests.shards import image_bytes, sample_members, write_tar

PLAN = ImagePlan.squeeze(16)


def make_source(root: Path, kind: str, count: int = 12) -> dict[str, object]:
    """Write `count` images with a caption each, of one kind of source, the last two without an image or a caption."""
    root.mkdir(parents=True, exist_ok=True)
    captions = [None if i == count - 1 else f"picture {i}" for i in range(count)]
    images = [b"broken" if i == count - 2 else image_bytes((i, 2 * i, 3)) for i in range(count)]
    if kind == "webdataset":
        members = [
            member
            for i, (image, caption) in enumerate(zip(images, captions, strict=True))
            for member in [(f"{i:04d}.png", image), *([(f"{i:04d}.txt", caption.encode())] if caption else [])]
        ]
        write_tar(root / "a.tar", members)
        return {"kind": kind, "paths": [str(root / "*.tar")]}
    if kind == "parquet":
        pq.write_table(pa.table({"image": images, "caption": captions}), root / "a.parquet", row_group_size=4)
        return {"kind": kind, "paths": [str(root / "*.parquet")]}
    for i, image in enumerate(images):
        (root / f"{i:04d}.png").write_bytes(image)
    if kind == "images":
        for i, caption in enumerate(captions):
            if caption:
                (root / f"{i:04d}.txt").write_text(caption)
        return {"kind": kind, "paths": [str(root)]}
    lines = [json.dumps({"uri": f"{i:04d}.png", "caption": caption}) for i, caption in enumerate(captions)]
    (root / "list.jsonl").write_text("\n".join(lines))
    return {"kind": "manifest", "paths": [str(root / "list.jsonl")]}


def source_of(root: Path, kind: str, **changes: object) -> RowSource:
    target = {"field": "txt" if kind in ("webdataset", "images") else "caption"}
    values = {"source": {**make_source(root, kind), "chunk_rows": 3}, "target": target}
    return RowSource(RowsConfig.model_validate({**values, **changes}), PLAN)


def told(row: Row) -> Row | None:
    """A target that names its row."""
    assert row.reference is not None
    return replace(row, targets=((int(row.reference.texts[0].split()[1]), 2),))


def numbers(loader: Loader, position: Position, count: int) -> list[list[int]]:
    batches = itertools.islice(loader.batches(position), count)
    return [[rows.rows[0].targets[0][0] for rows in batch.images] for batch in batches]


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "images", "manifest"])
def test_rows_and_what_is_left_out_are_the_same_of_every_kind_of_source(tmp_path: Path, kind: str) -> None:
    source = source_of(tmp_path, kind)
    images = [image for image in source.read(source.places, told) if image is not None]
    said = [image.rows[0].reference.texts[0] for image in images if image.rows[0].reference]
    assert sorted(said) == sorted(f"picture {i}" for i in range(11))
    assert [rows is None for rows in map(source.decode, images)].count(True) == 1
    reasons = {part.reason: part.count for part in source.left_out}
    assert reasons["no_label"] == 1
    assert sum(count for reason, count in reasons.items() if "image" in reason) == 1, reasons


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_an_epoch_has_every_usable_image_once_in_an_order_of_its_own(tmp_path: Path, kind: str) -> None:
    source = source_of(tmp_path, kind)
    loading = LoadingConfig(shuffle_images=5)
    loader = Loader(source, source.places, told, loading, batch_images=5, rows_per_image=1)
    first, second, third, fourth = numbers(loader, Position(), 4)
    assert sorted(first + second) == sorted(third + fourth) == list(range(10))
    assert first + second != third + fourth
    assert first + second != sorted(first + second)


def test_a_resumed_loader_goes_on_with_the_image_that_came_next(tmp_path: Path) -> None:
    source = source_of(tmp_path, "webdataset")
    loader = Loader(source, source.places, told, LoadingConfig(shuffle_images=4), batch_images=3, rows_per_image=1)
    batches = list(itertools.islice(loader.batches(Position()), 9))
    whole = [[rows.rows[0].targets[0][0] for rows in batch.images] for batch in batches]
    for done in (1, 3, 4, 6):
        assert numbers(loader, batches[done - 1].after, 9 - done) == whole[done:]


def test_workers_share_the_images_of_an_epoch(tmp_path: Path) -> None:
    source = source_of(tmp_path, "webdataset")
    loaders = [
        Loader(source, source.places, told, LoadingConfig(), batch_images=1, rows_per_image=1, rank=rank, count=2)
        for rank in range(2)
    ]
    orders = [[place.sample.row for window in loader._order(0) for place in window] for loader in loaders]
    assert sorted(orders[0] + orders[1]) == list(range(12))


def test_more_workers_than_chunks_share_the_images_of_each(tmp_path: Path) -> None:
    source = source_of(tmp_path, "webdataset", source={**make_source(tmp_path, "webdataset"), "chunk_rows": 256})
    loaders = [
        Loader(source, source.places, told, LoadingConfig(), batch_images=2, rows_per_image=1, rank=rank, count=3)
        for rank in range(3)
    ]
    orders = [[place.sample.row for window in loader._order(0) for place in window] for loader in loaders]
    assert sorted(itertools.chain.from_iterable(orders)) == list(range(12))
    assert all(len(order) == 4 for order in orders)


def test_fewer_images_than_a_batch_are_an_error_in_one_sentence(tmp_path: Path) -> None:
    source = source_of(tmp_path, "webdataset")
    loader = Loader(source, source.places, told, LoadingConfig(), batch_images=11, rows_per_image=1)
    with pytest.raises(UserError, match=r"10 usable images .* fewer than one step takes, 11; .* 1 no label"):
        numbers(loader, Position(), 1)
    with pytest.raises(UserError, match="12 usable images"):
        Loader(source, source.places, told, LoadingConfig(), batch_images=13, rows_per_image=1)


def test_the_split_is_the_same_every_time_and_no_image_is_in_two_parts(tmp_path: Path) -> None:
    splits = [source_of(tmp_path, "parquet").split(2, 3) for _ in range(2)]
    parts = [[[p.sample.row for p in part] for part in (s.training, s.validation, s.test)] for s in splits]
    assert parts[0] == parts[1]
    assert [len(part) for part in parts[0]] == [7, 2, 3]
    assert sorted(itertools.chain.from_iterable(parts[0])) == list(range(12))
    assert [len(part) for part in (source_of(tmp_path, "parquet").split(50, 50).training,)] == [6]


def test_questions_with_their_answers_come_from_a_list_in_the_record(tmp_path: Path) -> None:
    qa = [{"question": "what?", "answer": "a cat"}, {"question": "where?", "answer": "there"}]
    write_tar(tmp_path / "a.tar", sample_members(0, qa=qa, captions=["one", "two"]))
    values = {
        "source": {"paths": [str(tmp_path / "a.tar")], "prompt": {"template": "describe"}},
        "target": {"field": "captions"},
        "tasks": [{"prompt": {"list_field": "qa", "template": "{question}"}, "target": {"field": "answer"}}],
    }
    source = RowSource(RowsConfig.model_validate(values), PLAN)
    (image,) = source.read(source.places)
    assert image is not None
    assert [(row.task, row.prompt, row.reference and row.reference.texts) for row in image.rows] == [
        (0, "describe", ("one", "two")),
        (1, "what?", ("a cat",)),
        (1, "where?", ("there",)),
    ]
