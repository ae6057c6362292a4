"""Folders of images: identity is the path inside the folder, large folders are published in pieces."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.source import FetchConfig, SourceConfig, SourceKind
from pipeline.source.readers import make_reader
from pipeline.source.readers.folders import folder_fields, folder_shards
from pipeline.source.readers.images import ImageFolderReader
from pipeline.source.readers.manifest import ManifestReader
from tests.shards import image_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "deep/er/c.webp", "notes.txt", "deep/d.PNG"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "pictures"


def test_every_image_below_the_folder_is_a_sample(folder: Path) -> None:
    reader = ImageFolderReader((str(folder),))
    (shard,) = reader.shards(()).shards
    contents = reader.index(shard)
    samples, problems = contents.samples, contents.problems
    assert (shard.name, problems) == ("pictures", ())
    assert [sample.key for sample in samples] == ["a.jpg", "b.png", "deep/d.PNG", "deep/er/c.webp"]
    assert [raw.image for raw in reader.read(shard, samples[1:3])] == [b"b.png", b"deep/d.PNG"]


def test_a_file_that_vanished_is_an_error_of_its_own(folder: Path) -> None:
    reader = ImageFolderReader((str(folder),))
    (shard,) = reader.shards(()).shards
    samples = reader.index(shard).samples
    (folder / "b.png").unlink()
    raw = list(reader.read(shard, samples))
    assert [r.error_type for r in raw] == [None, "missing_file", None, None]


def test_large_folders_are_cut_into_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", 3)
    shards = ImageFolderReader((str(folder),)).shards(()).shards
    assert [(shard.name, len(shard.members)) for shard in shards] == [("pictures-00000", 3), ("pictures-00001", 1)]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "image folder not found"), ("empty", "no image files below")]
)
def test_a_folder_without_images_is_a_users_mistake(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        ImageFolderReader((str(tmp_path / name),)).shards(())


def test_readers_are_chosen_by_kind(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(image_bytes((1, 2, 3)))
    source = SourceConfig(kind=SourceKind.IMAGES, paths=(str(tmp_path),))
    assert isinstance(make_reader(source), ImageFolderReader)
    manifest = SourceConfig(kind=SourceKind.MANIFEST, paths=("m.csv",), uri_column="u", fetch={"attempts": 2})
    assert make_reader(manifest) == ManifestReader(("m.csv",), "u", (), FetchConfig(attempts=2))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_metadata_at_the_top_gives_fields_to_the_images_it_names(folder: Path, name: str) -> None:
    rows = [
        {"file_name": "deep/d.PNG", "question": "what, d?"},
        {"file_name": "nowhere.png", "question": "?"},
        {"file_name": "./a.jpg", "question": "a?"},
    ]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    elif name.endswith("csv"):
        lines = [f'{row["file_name"]},"{row["question"]}"' for row in rows]
        (folder / name).write_text("\n".join(["file_name,question", *lines]))
    else:
        (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    reader = ImageFolderReader((str(folder),), fields=("*",))
    (shard,) = reader.shards(()).shards
    contents = reader.index(shard)
    samples, problems = contents.samples, contents.problems
    assert problems == ()
    read = {raw.sample.key: raw.fields.get("question") for raw in reader.read(shard, samples)}
    assert read == {"a.jpg": "a?", "b.png": None, "deep/d.PNG": "what, d?", "deep/er/c.webp": None}
    plain = ImageFolderReader((str(folder),))
    assert all(not raw.fields for raw in plain.read(shard, plain.index(shard).samples))


def test_broken_metadata_is_a_problem_of_the_shard_not_of_its_images(folder: Path) -> None:
    (folder / "metadata.parquet").write_bytes(b"no parquet")
    reader = ImageFolderReader((str(folder),), fields=("*",))
    (shard,) = reader.shards(()).shards
    contents = reader.index(shard)
    samples, (problem,) = contents.samples, contents.problems
    assert problem.error_type == "unreadable_metadata"
    assert [raw.image is not None for raw in reader.read(shard, samples)] == [True] * 4


def test_metadata_of_many_shards_is_gone_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"file_name": name, "n": n} for n, name in enumerate(["a.jpg", "b.png", "deep/d.PNG", "a.jpg"])]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", 1)
    calls: list[str] = []
    read_places = folder_fields.places
    monkeypatch.setattr(folder_fields, "places", lambda url: (calls.append(url), read_places(url))[1])
    reader = ImageFolderReader((str(folder),), fields=("*",))
    shards = reader.shards(()).shards
    read = [raw for shard in shards for raw in reader.read(shard, reader.index(shard).samples)]
    assert [(raw.sample.key, raw.fields.get("n")) for raw in read] == [
        ("a.jpg", 3),  # the last record about it
        ("b.png", 1),
        ("deep/d.PNG", 2),
        ("deep/er/c.webp", None),
    ]
    assert len(calls) == 1
