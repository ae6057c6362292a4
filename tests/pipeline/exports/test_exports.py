"""Every export is read back by the reader of its own world, and holds every published row once, in order."""

import csv
import gc
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from conf.source import SourceConfig
from jobs import cli
from pipeline.exports import Exported, Form, Options, Published, export
from pipeline.output.ledger import RUN_NAME, save_plan
from pipeline.output.publish import publish_shard
from pipeline.output.staging import rows_table, save_index, stage_chunk
from pipeline.output.storage import Storage
from pipeline.source.readers import make_reader
from pipeline.source.shard_index import ShardIndex
from tests.shards import image_bytes, sample_members, write_tar

PROMPTS = ("what?", 'which "one"?')


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of three images, two prompts each, and one image that failed."""
    root = tmp_path_factory.mktemp("run")
    for shard in range(2):
        members = [member for n in range(3) for member in sample_members(3 * shard + n)]
        members.insert(2, ("sub dir/a&b.png", image_bytes((shard, 5, 5))))
        write_tar(root / "in" / f"part-{shard}.tar", members)
    source = SourceConfig(paths=(f"{root}/in/*.tar",), passthrough=("number",))
    reader, storage = make_reader(source), Storage(f"{root}/out")
    shards = reader.shards(()).shards
    save_plan(storage, {}, shards)
    for shard in shards:
        samples = reader.index(shard).samples
        index = ShardIndex(tuple(samples), (), 10)
        rows: list[dict[str, Any]] = []
        for sample in samples:
            base = {
                "sample_id": f"{shard.name}/{sample.key}",
                "shard": shard.name,
                "key": sample.key,
                "row": sample.row,
            }
            if sample.row == 3:
                failed = {"prompt_index": None, "num_prompts": 1, "stage": "read", "error_type": "x", "attempts": 1}
                rows.append({**base, **failed})
                continue
            for prompt_index, prompt in enumerate(PROMPTS):
                text = f'text "{sample.key}",\n{prompt_index} ä'
                asked = {"prompt_index": prompt_index, "num_prompts": 2, "prompt": prompt, "text": text}
                size = {"width": 32, "height": 32, "exit_layers": [2, 4], "num_tokens": 1}
                rows.append({**base, **asked, **size, "src_number": str(100 + sample.row)})
        save_index(storage, shard.name, index)
        stage_chunk(storage, shard.name, 0, rows_table(rows, ("number",)))
        assert publish_shard(storage, shard.name, ("number",)).counts is not None
    record = {"status": "complete", "config": {"source": source.model_dump(mode="json")}}
    storage.write(RUN_NAME, json.dumps(record).encode())
    return root / "out"


KEYS = [
    (f"part-{shard}", key) for shard in range(2) for key in (f"{3 * shard:06d}", "sub dir/a&b", f"{3 * shard + 1:06d}")
]
EXPECTED = [(f"{shard}/{key}", n, f'text "{key}",\n{n} ä') for shard, key in KEYS for n in range(2)]


def write(run: Path, form: Form, out: Path, **options: Any) -> Exported:
    return export(Published(str(run)), form, str(out), Options(**options))


def test_jsonl_and_csv_give_every_row_back(run: Path, tmp_path: Path) -> None:
    assert write(run, Form.JSONL, tmp_path / "a.jsonl").rows == len(EXPECTED) == 12
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert [(row["sample_id"], row["prompt_index"], row["text"]) for row in rows] == EXPECTED
    assert tuple(rows[0]) == Published(str(run)).columns
    write(run, Form.CSV, tmp_path / "deep" / "a.csv", columns=("sample_id", "prompt_index", "text", "exit_layers"))
    with (tmp_path / "deep" / "a.csv").open(encoding="utf-8", newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert [(row["sample_id"], int(row["prompt_index"]), row["text"]) for row in cells] == EXPECTED
    assert json.loads(cells[0]["exit_layers"]) == [2, 4]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.csv", "a.jsonl"]


@pytest.mark.filterwarnings("ignore")  # webdataset leaves its files to the garbage collector
def test_webdataset_sidecars_pair_with_the_original_keys(run: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", exc_type=ImportError)
    assert write(run, Form.WEBDATASET, tmp_path).rows == 12
    urls = [f"{tmp_path}/part-{shard}.tar" for shard in range(2)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [(Path(s["__url__"]).stem, s["__key__"]) for s in samples] == KEYS
    answers = [
        (s["deed.json"]["sample_id"], a["prompt_index"], a["text"]) for s in samples for a in s["deed.json"]["answers"]
    ]
    assert answers == EXPECTED
    assert [s["deed.txt"] for s in samples] == [text for _, number, text in EXPECTED if number == 0]
    gc.collect()


def test_coco_files_load_in_pycocotools(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    assert write(run, Form.COCO, tmp_path / "truth.json").rows == 12
    assert write(run, Form.COCO_RESULTS, tmp_path / "results.json").rows == 12
    coco = COCO(str(tmp_path / "truth.json"))
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    found = [(names[a["image_id"]], a["caption"]) for a in coco.loadAnns(coco.getAnnIds())]
    assert found == [(name, text) for name, _, text in EXPECTED]
    assert sorted(coco.getImgIds()) == [1, 2, 3, 4, 5, 6]
    again = coco.loadRes(str(tmp_path / "results.json"))
    assert [a["caption"] for a in again.loadAnns(again.getAnnIds())] == [text for _, _, text in EXPECTED]
    with pytest.raises(UserError, match="no column 'src_nothing'"):
        write(run, Form.COCO, tmp_path / "x.json", id_column="src_nothing")
    with pytest.raises(UserError, match=r"'text' of .* is .*, not a whole number"):
        write(run, Form.COCO, tmp_path / "x.json", id_column="text")
    assert not (tmp_path / "x.json").exists()


def test_vqa_results_answer_their_questions(run: Path, tmp_path: Path) -> None:
    """Read by hand: the reader of VQA v2 is not a package. It pairs the two files by question_id."""
    assert write(run, Form.VQA, tmp_path / "a.json").rows == 12
    answers = json.loads((tmp_path / "a.json").read_text())
    questions = json.loads((tmp_path / "a_questions.json").read_text())["questions"]
    assert [set(answer) for answer in answers] == [{"question_id", "answer"}] * 12
    asked = {question["question_id"]: question for question in questions}
    assert len(asked) == 12
    assert [(asked[a["question_id"]]["question"], a["answer"]) for a in answers] == [
        (PROMPTS[number], text) for _, number, text in EXPECTED
    ]
    assert [asked[a["question_id"]]["image_id"] for a in answers] == [n for n in range(1, 7) for _ in range(2)]


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("hf_home")
def test_an_image_folder_loads_in_datasets(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    assert write(run, Form.IMAGEFOLDER, tmp_path / "folder").rows == 12
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    rows = sorted(loaded["train"], key=lambda row: (row["sample_id"], row["prompt_index"]))
    assert [(r["sample_id"], r["prompt_index"], r["text"]) for r in rows] == sorted(EXPECTED)
    assert rows[2]["image"].getpixel((0, 0)) == (1, 7, 100)


def test_the_command_counts_and_refuses_in_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), "--to", "jsonl", "--out", f"{tmp_path}/a.jsonl", "--columns", "text"]) == 0
    assert capsys.readouterr().out == f"12 rows of 2 shards written to {tmp_path}/a.jsonl\n"
    assert cli.main(["export", str(tmp_path), "--to", "csv", "--out", f"{tmp_path}/a.csv"]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_an_output_begun_by_an_earlier_version_has_no_token_ids_in_some_of_its_shards(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    for later, name in enumerate(("part-0", "part-1")):
        path = out / "results" / f"{name}.parquet"
        table = pq.read_table(path)
        column = table.schema.get_field_index("token_ids")
        ids = pa.array([[7, 9]] * table.num_rows, pa.list_(pa.int32()))
        table = table.set_column(column, "token_ids", ids) if later else table.drop_columns(["token_ids"])
        pq.write_table(table, path)
    for form in (Form.JSONL, Form.CSV):
        assert write(out, form, tmp_path / form.value).rows == len(EXPECTED)
    rows = [json.loads(line) for line in (tmp_path / "jsonl").read_text("utf-8").splitlines()]
    assert [row["token_ids"] for row in rows] == [None] * 6 + [[7, 9]] * 6
    with open(tmp_path / "csv", encoding="utf-8", newline="") as stream:
        assert [row["token_ids"] for row in csv.DictReader(stream)] == [""] * 6 + ["[7, 9]"] * 6


FIELDS = [
    {"bboxes": [[1, 2, 11, 22], [0, 0, 5, 5]], "labels": ["car", "dog"]},
    None,
    {"quad_boxes": [[1, 1, 9, 2, 8, 7, 2, 6]], "labels": ["dog"]},
    {"polygons": [[[0, 0, 4, 0, 4, 4], [6, 6]], []], "labels": ["", "cat"]},
    {"bboxes": [[3, 3, 4, 5]], "bboxes_labels": ["car"], "polygons": [], "polygons_labels": []},
    {"menu": {"nm": "tea"}},
    *[None] * 6,
]


@pytest.fixture(scope="module")
def boxes(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, the rows of its shards with these fields."""
    out = tmp_path_factory.mktemp("boxes") / "out"
    shutil.copytree(run, out)
    for number, name in enumerate(("part-0", "part-1")):
        path = out / "results" / f"{name}.parquet"
        table = pq.read_table(path)
        found = [None if value is None else json.dumps(value) for value in FIELDS[6 * number : 6 * number + 6]]
        column = table.schema.get_field_index("fields")
        pq.write_table(table.set_column(column, "fields", pa.array(found, pa.string())), path)
    return out


def test_boxes_become_a_file_that_coco_reads(run: Path, boxes: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    exported = write(boxes, Form.COCO_DETECTIONS, tmp_path / "boxes.json")
    assert (exported.rows, exported.notes) == (12, ("5 boxes of 3 categories",))
    coco = COCO(str(tmp_path / "boxes.json"))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    found = [
        (a["image_id"], names[a["category_id"]], a["bbox"], a["segmentation"]) for a in coco.loadAnns(coco.getAnnIds())
    ]
    quad, polygon = [1, 1, 9, 2, 8, 7, 2, 6], [0, 0, 4, 0, 4, 4]
    assert found == [
        (1, "car", [1, 2, 10, 20], []),
        (1, "dog", [0, 0, 5, 5], []),
        (2, "dog", [1, 1, 8, 6], [quad]),
        (2, "", [0, 0, 4, 4], [polygon]),
        (3, "car", [3, 3, 1, 2], []),
    ]
    assert len(coco.getImgIds()) == 6
    with pytest.raises(UserError, match="nothing in the column 'fields'"):
        write(run, Form.COCO_DETECTIONS, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_fields_are_objects_beside_a_sample_and_json_in_a_column(boxes: Path, tmp_path: Path) -> None:
    write(boxes, Form.WEBDATASET, tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "part-0.tar") as tar:
        records = [json.loads(tar.extractfile(m).read()) for m in tar if m.name.endswith(".json")]
    assert [answer.get("fields") for record in records for answer in record["answers"]] == FIELDS[:6]
    write(boxes, Form.CSV, tmp_path / "x.csv", columns=("fields",))
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as stream:
        assert [json.loads(row["fields"] or "null") for row in csv.DictReader(stream)] == FIELDS
