"""`deed report` and the summary after a run, from shards and tables on disk; one sentence where that fails."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from jobs.cli import main
from jobs.shared.source_rows import find_references, find_thumbnails, thumbnail
from jobs.shared.summary import show_summary
from pipeline.report.folder import RunFolder
from tests.pipeline.images.profiles import swapped_profile
from tests.pipeline.report.runs import FakeRun
from tests.shards import image_bytes, write_tar


def jpeg() -> bytes:
    return image_bytes((200, 30, 30), (640, 320), "JPEG")


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """A run and the shards it was made from; the failed rows are there too, as broken images."""
    made = FakeRun(tmp_path / "run", num_rows=30, source_paths=(str(tmp_path / "data" / "part-*.tar"),)).write()
    for shard in ("part-000", "part-001"):
        members: list[tuple[str, bytes]] = []
        for row in (row for row in made.rows if row["shard"] == shard):
            fields = {"captions": [{"prompt": row["prompt"], "text": row["text"]}], "objects": [{"name": "dog"}]}
            members += [(f"{row['key']}.jpg", jpeg()), (f"{row['key']}.json", json.dumps(fields).encode())]
        members += [(f"{row['key']}.jpg", b"no image") for row in made.errors if row["shard"] == shard]
        write_tar(tmp_path / "data" / f"{shard}.tar", members)
    return made


def test_html_lies_beside_the_tables(run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path)]) == 0
    path = run.path / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    page = path.read_text()
    assert page.count("data:image/jpeg;base64,") == 30
    assert page.count("no preview") == 5  # of the kinds of errors at most three rows each
    assert "object naming F1" in page


def test_two_runs_give_a_comparison(run: FakeRun, tmp_path: Path) -> None:
    other = FakeRun(tmp_path / "other", num_rows=30, full_depth=True).write()
    assert main(["report", str(run.path), str(other.path), "--no-source"]) == 0
    page = (run.path / "comparison.html").read_text()
    assert "Comparison of 2 runs" in page
    assert "data:image" not in page


def test_a_run_that_was_killed_before_it_wrote_run_json(run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "run.json").unlink()
    assert main(["report", str(run.path)]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert set(said) == {"no previews and references: there is no run.json yet, which says where the source is"}


def test_a_source_that_this_version_does_not_know_is_one_line(run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run.path / "run.json").read_text())
    record["config"]["source"]["colour"] = "red"
    (run.path / "run.json").write_text(json.dumps(record))
    assert main(["report", str(run.path)]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert {line.partition(", did")[0] for line in said} == {
        "the source cannot be read for previews and references: unknown key 'colour'"
    }


@pytest.mark.parametrize(("form", "start"), [("md", "# Run report: run"), ("json", "{"), ("text", "\n complete")])
def test_the_other_forms_go_to_the_terminal(
    run: FakeRun, form: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run.path), "--format", form]) == 0
    assert capsys.readouterr().out.startswith(start)
    assert not (run.path / "report.html").exists()


def test_out_names_a_file(run: FakeRun, tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    assert main(["report", str(run.path), "--format", "json", "--no-source", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["runs"][0]["quality"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/nothing"], "is not the output of a run"),
        (["{run}", "--out", "{tmp}/no/such/folder/x.html"], "cannot write --out"),
        (["{run}", "--items", "-1"], "must not be negative"),
    ],
)
def test_a_mistake_is_one_sentence(
    run: FakeRun, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(argument.format(tmp=tmp_path, run=run.path) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_the_summary_scores_against_the_source(run: FakeRun) -> None:
    stream = io.StringIO()
    numbers = show_summary(str(run.path), references=True, console=Console(file=stream, width=120))
    assert "36 read = 30 done + 6 failed" in stream.getvalue()
    assert numbers.quality is not None
    assert {score.name: score.value for score in numbers.quality.scores}["exact match"] == 1.0
    assert show_summary(str(run.path), console=Console(file=io.StringIO())).quality is None


def test_a_source_that_has_gone_costs_previews_only(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    assert main(["report", str(run.path)]) == 0
    assert "cannot be read for previews and references" in capsys.readouterr().err


def test_samples_are_found_by_shard_and_key(run: FakeRun) -> None:
    folder = RunFolder(str(run.path))
    wanted = [("part-000", "k00000"), ("part-001", "k00001"), ("part-001", "nothing"), ("part-009", "k00000")]
    assert set(find_thumbnails(folder, wanted)) == set(wanted[:2])
    references = find_references(folder, wanted)
    assert set(references) == set(wanted[:2])
    assert references["part-000", "k00000"]("describe the image").texts == (run.rows[0]["text"],)


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    with Image.open(io.BytesIO(thumbnail(jpeg()))) as image:
        assert (image.format, image.size) == ("JPEG", (320, 160))
    assert thumbnail(b"no image") is None
    assert thumbnail(b"") is None
    assert thumbnail(jpeg()[:200]) is None


def test_thumbnails_are_made_as_the_model_sees_the_image() -> None:
    exif, swapped = Image.Exif(), swapped_profile()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(stream, "TIFF", exif=exif, icc_profile=swapped)
    with Image.open(io.BytesIO(thumbnail(stream.getvalue()))) as image:
        assert image.size == (40, 60)
        red, _, blue = image.getpixel((20, 30))
        assert blue > red + 60
