"""Whole runs over folders, without Ray: every file is a row, an error or left out, whatever comes and goes between."""

import os
from pathlib import Path

import pytest

from conf.schema import JobConfig, RetryErrors
from conf.vqa import VqaConfig
from pipeline.output.storage import Storage
from pipeline.source.left_out import load_listing
from pipeline.source.questions import Questions
from pipeline.source.readers.folders import folder_shards
from pipeline.vqa.ticks import TickReader, plan_tick, tick_config
from tests.pipeline.output.test_ledger import config
from tests.pipeline.small_run import done_rows, error_rows, small_run
from tests.shards import image_bytes


def job(folder: Path, out: Path, **source: object) -> JobConfig:
    return config(source={"kind": "images", "paths": [str(folder)], **source}, output={"path": str(out)})


def write(folder: Path, *names: str, data: bytes | None = None) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes((1, 2, 3)) if data is None else data)


def test_a_copy_of_a_mac_folder_that_is_cleaned_up_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", 40)
    photos, out = tmp_path / "photos", tmp_path / "photos" / "captions"  # the output lies inside the source
    write(photos, *(f"{n:03d}.jpg" for n in range(50)), os.fsdecode(b"caf\xe9.jpg"), "22.05")
    write(photos, *(f"._{n:03d}.jpg" for n in range(50)), data=b"\0\5\x16\7")
    write(photos, "broken.jfif", "notes.md", data=b"no image")
    small_run(job(photos, out))
    first = done_rows(str(out))
    assert len(first) == 52
    assert ("photos-00001/caf\\udce9.jpg", 0) in first
    assert error_rows(str(out)) == {"photos-00001/broken.jfif": "not_an_image"}
    assert {part.reason: part.count for part in load_listing(Storage(str(out)))} == {
        "hidden_files": 50,
        "other_files": 1,
    }
    for path in photos.glob("._*"):
        path.unlink()
    (photos / "000.jpg").unlink()  # captioned already
    small_run(job(photos, out))
    assert done_rows(str(out)) == first
    write(photos, *(f"{n:03d}.jpg" for n in range(100, 145)))
    small_run(job(photos, out))
    assert done_rows(str(out)).items() > first.items()
    assert len(done_rows(str(out))) == 52 + 45
    assert {sample.partition("/")[0] for sample, _ in done_rows(str(out))} == {f"photos-{n:05d}" for n in range(4)}
    assert {part.reason: part.count for part in load_listing(Storage(str(out)))}.keys() == {
        "run_output_files",
        "other_files",
    }


def test_a_file_that_was_planned_and_is_gone_is_an_error(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write(photos, *(f"{n}.jpg" for n in range(6)))

    def die(shard: str, chunk: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(job(photos, out, chunk_rows=2), on_chunk=die)
    (photos / "5.jpg").unlink()
    small_run(job(photos, out, chunk_rows=2))
    assert len(done_rows(str(out))) == 5
    assert error_rows(str(out)) == {"photos/5.jpg": "missing_file"}


def test_prompts_and_passthrough_come_from_sidecars(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write(photos, "a.jpg", "b.jpg")
    write(photos, "a.txt", data=b"a red cat")
    write(photos, "b.json", data=b'{"txt": "a dog", "n": 7}')
    small_run(job(photos, out, prompt={"template": "Better than: {txt}"}))
    assert {text.partition(": ")[2] for text in done_rows(str(out)).values()} == {
        "Better than: a red cat",
        "Better than: a dog",
    }


def test_questions_about_a_folder_ask_new_files_only_and_read_their_sidecars(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write(photos, "a.jpg", "sub/b")
    write(photos, "a.txt", "sub/b.txt", data=b"a cat")
    content = job(photos, tmp_path / "out").model_dump(mode="json")
    vqa = VqaConfig.model_validate(content | {"questions": {"ask": ["Is it {txt}?"]}})
    questions, root = Questions(("Is it {txt}?",), None, "{question}"), Storage(str(tmp_path / "out"))
    tick = plan_tick(vqa, questions, [])
    assert tick is not None
    assert [part.reason for part in tick.left_out] == ["sidecar_files"]
    small_run(tick_config(vqa, tick), TickReader.of(vqa, root, tick))
    assert len(done_rows(f"{tmp_path}/out/{tick.folder}")) == 2
    write(photos, "c.jpg")
    write(photos, "c.txt", data=b"a dog")
    second = plan_tick(vqa, questions, [tick])
    assert second is not None
    assert [entry.shard.members for entry in second.shards] == [("c.jpg",)]
    assert [entry.shard.beside for entry in second.shards] == [("c.txt",)]
    assert plan_tick(vqa, questions, [tick, second]) is None


def test_a_photograph_that_is_replaced_costs_no_other_one_and_no_refusal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write(photos, "0.jpg", "1.jpg", "2.jpg", "4.jpg")
    write(photos, "3.jpg", data=b"half an upload")

    def die(shard: str, chunk: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_run(job(photos, out, chunk_rows=2), on_chunk=die)
    write(photos, "0.jpg", "2.jpg", data=image_bytes((9, 9, 9)) + b"edited")  # captioned already, and not yet
    small_run(job(photos, out, chunk_rows=2))
    assert len(done_rows(str(out))) == 4
    assert error_rows(str(out)) == {"photos/3.jpg": "not_an_image"}
    assert "2 changed files (0.jpg, 2.jpg), of another size than when they were planned" in caplog.text
    first = done_rows(str(out))
    write(photos, "3.jpg")  # mended
    write(photos, "5.jpg")
    small_run(job(photos, out, chunk_rows=2))
    assert done_rows(str(out)).items() > first.items()
    again = job(photos, out, chunk_rows=2)
    output = again.output.model_copy(update={"retry_errors": RetryErrors.ALL})
    small_run(again.model_copy(update={"output": output}))
    assert len(done_rows(str(out))) == 6
    assert error_rows(str(out)) == {}


def test_a_folder_that_was_moved_is_not_captioned_again(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "photos", *(f"sub/{n}.jpg" for n in range(20)))
    out = tmp_path / "out"
    small_run(job(tmp_path / "disk" / "photos", out))
    first = done_rows(str(out))
    (tmp_path / "disk").rename(tmp_path / "newdisk")
    (tmp_path / "newdisk" / "photos" / "sub" / "0.jpg").unlink()
    write(tmp_path / "newdisk" / "photos", "new.jpg")
    small_run(job(tmp_path / "newdisk" / "photos", out))
    assert done_rows(str(out)).items() > first.items()
    assert set(done_rows(str(out))) - set(first) == {("photos-00001/new.jpg", 0)}
    write(tmp_path / "other" / "photos", *(f"sub/{n}.jpg" for n in range(20)))
    small_run(job(tmp_path / "other" / "photos", out))
    assert len(done_rows(str(out))) == 21 + 20, "a copy beside it is another folder"
