"""Captions beside their images: every mode, done twice, killed in between, and what is in the way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from conf.source import SourceConfig, SourceKind
from jobs import cli
from pipeline.exports import Existing, Exported, Form, Options, Published, SidecarOptions, export
from pipeline.output import incarnation
from pipeline.output.ledger import RUN_NAME, clear_output, save_plan
from pipeline.output.publish import publish_shard
from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.plan import Sample
from pipeline.source.readers import make_reader
from pipeline.source.shard_index import ShardIndex
from pipeline.text import is_utf8, original, storable
from tests.shards import image_bytes


def make_run(root: Path, captions: dict[str, list[str]] | None = None, again: bool = False, **source: Any) -> str:
    """A run over root/photos (or another source). `captions`: image -> answers; others have one, `a NAME`."""
    storage, captions = Storage(f"{root}/run"), captions or {}
    if again:
        clear_output(storage)
    config = SourceConfig(**{"kind": SourceKind.IMAGES, "paths": (f"{root}/photos",), **source})
    reader = make_reader(config)
    shards = reader.shards(()).shards
    save_plan(storage, {}, shards)
    for shard in shards:
        found = reader.index(shard).samples
        samples = tuple(Sample(s.row, s.key if is_utf8(s.key) else storable(s.key), ()) for s in found)
        save_index(storage, shard.name, ShardIndex(samples, (), 10_000))
        rows = []
        for sample in samples:
            base = {
                "shard": shard.name,
                "key": sample.key,
                "sample_id": f"{shard.name}/{sample.key}",
                "row": sample.row,
            }
            texts = captions.get(sample.key, [f"a {Path(sample.key).stem}"])
            for n, text in enumerate(texts):
                rows.append({**base, "prompt": "?", "prompt_index": n, "num_prompts": len(texts), "text": text})
            if not texts:
                rows.append({**base, "num_prompts": 1, "stage": "read", "error_type": "x", "attempts": 1})
        stage_chunk(storage, shard.name, 0, rows_table(rows))
        assert publish_shard(storage, shard.name).counts is not None
    record = {"status": "complete", "config": {"source": config.model_dump(mode="json")}}
    storage.write(RUN_NAME, json.dumps(record).encode())
    return storage.url


def write(run: str, out: Path | None = None, **options: Any) -> Exported:
    chosen = Options(sidecars=SidecarOptions(**options))
    return export(Published(run), Form.TXT, None if out is None else str(out), chosen)


def put(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(image_bytes((1, 2, 3)))


def texts(folder: Path, suffix: str = ".txt") -> dict[str, str]:
    found = {str(p.relative_to(folder)): p.read_bytes().decode("utf-8") for p in folder.rglob(f"*{suffix}")}
    return dict(sorted(found.items()))


def reasons(exported: Exported) -> dict[str, int]:
    return {part.reason: part.count for part in exported.left_out}


def test_each_image_gets_one_line_under_its_own_stem(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos, "a.jpg", "sub/photo.v1.png", "two.png", "lines.png", "failed.png", "silent.png")
    answers = {"two.png": ["one", "", "two"], "lines.png": [" a\nb\r\nc "], "failed.png": [], "silent.png": [""]}
    run = make_run(tmp_path, answers)
    exported = write(run, prefix="ohwx, ", suffix=" .")
    assert texts(photos) == {
        "a.txt": "ohwx, a a .", "lines.txt": "ohwx, a b c .", "sub/photo.v1.txt": "ohwx, a photo.v1 .",
        "two.txt": "ohwx, one, two .",
    }  # fmt: skip
    assert reasons(exported) == {"failed_rows": 1, "empty_captions": 1}
    assert exported.rows == 6
    assert exported.summary == "4 captions beside their images: 4 files written, 0 as they were"
    assert write(run, extension=".caption", join=" | ").summary == exported.summary
    assert texts(photos, ".caption")["two.caption"] == "one | two"


@pytest.mark.parametrize(
    ("existing", "expected"),
    [("skip", "mine\n"), ("overwrite", "a a"), ("append", "mine, a a\n"), ("prepend", "a a, mine\n")],
)
def test_existing_files_are_treated_as_asked_and_only_once(tmp_path: Path, existing: str, expected: str) -> None:
    photos = tmp_path / "photos"
    put(photos, "a.jpg", "b.jpg")
    (photos / "a.txt").write_text("mine\n")
    run = make_run(tmp_path)
    first = write(run, existing=Existing(existing))
    assert texts(photos) == {"a.txt": expected, "b.txt": "a b"}
    assert reasons(first) == ({"existing_caption_files": 1} if existing == "skip" else {})
    before = {path: path.stat().st_mtime_ns for path in photos.iterdir()}
    again = write(run, existing=Existing(existing))
    assert texts(photos) == {"a.txt": expected, "b.txt": "a b"}
    assert "0 files written" in (again.summary or "")
    assert before == {path: path.stat().st_mtime_ns for path in photos.iterdir()}, "nothing is written twice"


@pytest.mark.parametrize("existing", ["append", "prepend"])
def test_a_new_caption_takes_the_place_of_the_old_one_among_edits(tmp_path: Path, existing: str) -> None:
    photos = tmp_path / "photos"
    put(photos, "a.jpg", "b.jpg")
    (photos / "a.txt").write_text("mine")
    write(make_run(tmp_path), existing=Existing(existing))
    (photos / "b.txt").write_text("by hand, a b, more by hand")
    captions = {"a.jpg": ["a new a"], "b.jpg": ["a new b"]}
    run = make_run(tmp_path, captions, again=True)  # begun anew: the record of what was written stays
    write(run, existing=Existing(existing))
    own = "mine, a new a" if existing == "append" else "a new a, mine"
    assert texts(photos) == {"a.txt": own, "b.txt": "by hand, a new b, more by hand"}
    write(run, existing=Existing.SKIP)
    assert texts(photos) == {"a.txt": own, "b.txt": "by hand, a new b, more by hand"}


def test_a_kill_between_the_files_adds_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, replace = tmp_path / "photos", os.replace
    put(photos, "a.jpg", "b.jpg", "c.jpg")
    for name in "abc":
        (photos / f"{name}.txt").write_text("mine")
    write(make_run(tmp_path), existing=Existing.APPEND)
    run = make_run(tmp_path, {f"{name}.jpg": [f"new {name}"] for name in "abc"}, again=True)

    def dies_at_b(source: str, target: str) -> None:
        if target.endswith("b.txt"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", dies_at_b)
    with pytest.raises(KeyboardInterrupt):
        write(run, existing=Existing.APPEND)
    monkeypatch.undo()
    assert texts(photos) == {"a.txt": "mine, new a", "b.txt": "mine, a b", "c.txt": "mine, a c"}
    write(run, existing=Existing.APPEND)
    assert texts(photos) == {f"{name}.txt": f"mine, new {name}" for name in "abc"}
    assert not list(photos.glob(".tmp*"))


def test_names_that_collide_or_are_images_are_seen_and_never_touched(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos, "a.jpg", "a.png", "b.jpg", "c.jpg")
    (photos / "b.txt").write_bytes(image_bytes((9, 9, 9)))  # an image with a wrong suffix
    (photos / "c.txt").mkdir()
    exported = write(make_run(tmp_path), existing=Existing.OVERWRITE)
    assert reasons(exported) == {
        "existing_files_that_are_no_text": 1, "folders_with_the_name_of_a_caption": 1,
        "images_with_the_name_of_another": 1,
    }  # fmt: skip
    assert (photos / "b.txt").read_bytes() == image_bytes((9, 9, 9))
    assert (photos / "a.txt").read_text() == "a a"


def test_bytes_that_are_not_utf8_and_marks_at_the_beginning_stay(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos, "a.jpg", "b.jpg")
    (photos / "a.txt").write_bytes(b"caf\xe9\r\n")
    (photos / "b.txt").write_bytes(b"\xef\xbb\xbfmine")
    run = make_run(tmp_path)
    for _ in range(2):
        write(run, existing=Existing.PREPEND)
        assert (photos / "a.txt").read_bytes() == b"a a, caf\xe9\r\n"
        assert (photos / "b.txt").read_bytes() == b"\xef\xbb\xbfa b, mine"


def test_another_folder_mirrors_the_source(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a.jpg", "sub/b.jpg")
    put(tmp_path / "more", "a.jpg")
    run = make_run(tmp_path, paths=(f"{tmp_path}/photos", f"{tmp_path}/more"))
    write(run, tmp_path / "out")
    assert list(texts(tmp_path / "out")) == ["more/a.txt", "photos/a.txt", "photos/sub/b.txt"]
    assert not texts(tmp_path / "photos")


def test_folders_of_one_name_are_mirrored_side_by_side(tmp_path: Path) -> None:
    put(tmp_path / "x" / "photos", "a.jpg")
    put(tmp_path / "y" / "photos", "a.jpg")
    run = make_run(tmp_path, paths=(f"{tmp_path}/x/photos", f"{tmp_path}/y/photos"))
    assert reasons(write(run, tmp_path / "out")) == {}
    assert list(texts(tmp_path / "out")) == ["x__photos/a.txt", "y__photos/a.txt"]


def test_manifests_of_local_files_too(tmp_path: Path) -> None:
    put(tmp_path / "in", "x y.jpg", "sub/b.jpg")
    put(tmp_path / "away", "c.jpg")
    uris = ["x y.jpg", f"file://{tmp_path}/in/sub/b.jpg", f"{tmp_path}/away/c.jpg", "https://example.org/d.jpg"]
    (tmp_path / "in" / "m.jsonl").write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in uris))
    answers = {f"{n:08d}": [f"text {n}"] for n in range(4)}
    run = make_run(tmp_path, answers, kind=SourceKind.MANIFEST, paths=(f"{tmp_path}/in/m.jsonl",))
    exported = write(run)
    assert texts(tmp_path / "in") == {"sub/b.txt": "text 1", "x y.txt": "text 0"}
    assert texts(tmp_path / "away") == {"c.txt": "text 2"}
    assert reasons(exported) == {"images_that_are_no_local_files": 1}
    write(run, tmp_path / "out")
    assert sorted(texts(tmp_path / "out").values()) == ["text 0", "text 1", "text 2"]


def test_what_cannot_have_sidecars_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "photos", "a.jpg")
    run = make_run(tmp_path)
    for arguments, said in (
        (["export", run, "--to", "txt", "--extension", ".jpg"], "is no suffix of caption files"),
        (["export", run, "--to", "txt", "--out", "s3://bucket/x"], "local folders"),
        (["export", run, "--to", "csv"], "say where the export goes"),
        (["caption", "x.tar", "--out", f"{tmp_path}/o", "--sidecar", ".txt"], "source.kind is webdataset"),
        (["plan", "x.parquet", "--out", f"{tmp_path}/o", "--sidecar", ".txt"], "source.kind is parquet"),
        (["caption", "s3://bucket/x/", "--out", f"{tmp_path}/o", "--sidecar", "txt"], "is not"),
        (
            ["caption", f"{tmp_path}/photos", "--out", f"{tmp_path}/o", "--prefix", "x"],
            "--prefix is about caption files",
        ),
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "photos", "a.jpg")
    run = make_run(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", refuse)
    monkeypatch.setattr(Storage, "write", lambda *_: None)
    with pytest.raises(UserError, match=r"cannot write captions into .*photos.*Read-only file system; --out FOLDER"):
        write(run)


def test_the_command_writes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "photos", "a.jpg", "a.png")
    run = make_run(tmp_path, {"a.jpg": ["one", "two"]})
    arguments = ["--to", "txt", "--extension", "caption", "--join", "\\n", "--suffix", " end"]
    assert cli.main(["export", run, *arguments]) == 0
    said = capsys.readouterr()
    assert said.out == "1 captions beside their images: 1 files written, 0 as they were\n"
    assert "1 images with the name of another" in said.err
    assert texts(tmp_path / "photos", ".caption") == {"a.caption": "one\ntwo end"}


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf8_and_names_at_the_limit(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos, b"caf\xe9.jpg", "n" * 251 + ".jpg")
    run = make_run(tmp_path, {"caf\\udce9.jpg": ["a café"]})
    keys = {original(row["key"]) for row in Published(run).all_rows(("key",))}
    assert "caf\udce9.jpg" in keys
    write(run)
    assert os.path.exists(os.path.join(os.fsencode(photos), b"caf\xe9.txt"))
    assert (photos / ("n" * 251 + ".txt")).exists()
    assert reasons(write(run, extension=".caption")) == {"names_too_long": 1}


def test_photographs_that_are_gone_are_counted_by_one_reason_in_every_export(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    run = make_run(tmp_path)
    (tmp_path / "photos" / "a.jpg").unlink()
    (tmp_path / "photos" / "b.jpg").unlink()
    assert reasons(write(run)) == {"images_gone": 2}
    assert reasons(export(Published(run), Form.IMAGEFOLDER, str(tmp_path / "folder"), Options())) == {"images_gone": 2}


@pytest.mark.parametrize(
    "arguments", [["export", "RUN", "--to", "txt", "--out", "/proc/x"], ["export", "FILE", "--to", "csv", "--out", "o"],
    ["status", "FILE/run"], ["report", "FILE"]]
)  # fmt: skip
def test_folders_that_cannot_be_are_one_sentence(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "photos", "a.jpg")
    names = {"RUN": make_run(tmp_path), "FILE": f"{tmp_path}/photos/a.jpg", "FILE/run": f"{tmp_path}/photos/a.jpg/run"}
    assert cli.main([names.get(argument, argument) for argument in arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_output_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to '/proc/nope': .* cannot be made"):
        Storage("/proc/nope").create("_state/lease", b"")
    put(tmp_path, "a.jpg")
    below = incarnation.current(Storage(f"{tmp_path}/a.jpg"))
    with pytest.raises(UserError, match="is below a file"):
        below.create("_state/lease", b"")
