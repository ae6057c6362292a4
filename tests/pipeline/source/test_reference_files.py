"""Files of references in the shapes in which data sets are published, and how images are found in them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import UserError
from pipeline.source.reference_files import ReferenceFile, image_names, read_references
from pipeline.source.references import Kind, Reference

FIVE = tuple(f"a man on a motorcycle, number {n}" for n in range(5))
TEN = ("net",) * 6 + ("netting", "net", "mesh", "net")
ASKED = "What is this photo taken looking through?"
CAPTIONS = [(None, Reference(Kind.CAPTION, FIVE))]
ANSWERS = [(ASKED, Reference(Kind.ANSWER, TEN))]
ONE_ANSWER = [(ASKED, Reference(Kind.ANSWER, ("net",)))]
GIVEN = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(TEN, 1)]
COCO_NAME = "COCO_val2014_000000391895.jpg"
COCO = {
    "info": {"year": 2014},
    "images": [{"license": 3, "file_name": COCO_NAME, "id": 391895},
               {"license": 1, "file_name": "COCO_val2014_000000000042.jpg", "id": 42}],
    "licenses": [],
    "annotations": [{"image_id": 391895, "id": 770337 + n, "caption": text} for n, text in enumerate(FIVE)],
}  # fmt: skip
QUESTIONS = {
    "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": "val2014",
    "questions": [{"image_id": 458752, "question": ASKED, "question_id": 458752000},
                  {"image_id": 458752, "question": "Who?", "question_id": 458752001}],
}  # fmt: skip
ANNOTATIONS = {
    "info": {}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco",
    "annotations": [{"question_type": "what is this", "multiple_choice_answer": "net", "answers": GIVEN,
                     "image_id": 458752, "answer_type": "other", "question_id": 458752000}],
}  # fmt: skip
DOCVQA = {
    "dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "val",
    "data": [{"questionId": 49153, "question": ASKED, "image": "documents/pybv0228_81.png", "docId": 14465,
              "ucsf_document_id": "pybv0228", "ucsf_document_page_no": "81", "answers": ["net"], "data_split": "val"}],
}  # fmt: skip
TEXTCAPS = {
    "data": [
        {"image_id": "0054c91397f2fe05", "image_name": "0054c91397f2fe05", "image_path": "train/0054c91397f2fe05.jpg",
         "caption_id": n, "caption_str": text, "reference_strs": list(FIVE), "reference_tokens": [["a"]]}
        for n, text in enumerate(FIVE)
    ],
}  # fmt: skip
PUBLISHED: dict[str, tuple[Any, str | int, list[Any]]] = {
    "COCO": (COCO, COCO_NAME, CAPTIONS),
    "nocaps": (
        {"images": [{"id": 0, "file_name": "0013ea2087020901.jpg"}],
         "annotations": [{"image_id": 0, "id": n, "caption": text} for n, text in enumerate(FIVE)]},
        "0013ea2087020901", CAPTIONS,
    ),
    "Karpathy": (
        {"dataset": "coco", "images": [
            {"filepath": "val2014", "filename": COCO_NAME, "imgid": 0, "cocoid": 391895, "split": "test",
             "sentences": [{"tokens": ["a"], "raw": text, "imgid": 0, "sentid": n} for n, text in enumerate(FIVE)]}]},
        391895, CAPTIONS,
    ),
    "Karpathy, as BLIP has it": ([{"image": f"val2014/{COCO_NAME}", "caption": list(FIVE)}], COCO_NAME, CAPTIONS),
    "DocVQA": (DOCVQA, "documents/pybv0228_81.png", ONE_ANSWER),
    "InfographicVQA": (
        {"data": [{"questionId": 98313, "question": ASKED, "image_local_name": "20471.jpeg",
                   "image_url": "https://x/y.jpeg", "ocr_output_file": "20471.json", "answers": ["net"]}]},
        "20471.jpeg", ONE_ANSWER,
    ),
    "TextVQA": (
        {"data": [{"question": ASKED, "image_id": "003a8ae2ef43b901", "image_classes": ["Net"], "answers": list(TEN),
                   "flickr_300k_url": "https://x/o.jpg", "question_id": 34602, "set_name": "val"}]},
        "003a8ae2ef43b901.jpg", ANSWERS,
    ),
    "TextCaps": (TEXTCAPS, "0054c91397f2fe05.jpg", CAPTIONS),
    "VizWiz": (
        [{"image": "VizWiz_val_00000000.jpg", "question": ASKED, "answer_type": "other", "answerable": 1,
          "answers": [{"answer_confidence": "yes", "answer": text} for text in TEN]}],
        "VizWiz_val_00000000.jpg", ANSWERS,
    ),
    "ChartQA": ([{"imgname": "41699051005347.png", "query": ASKED, "label": "net"}], "41699051005347.png", ONE_ANSWER),
    "A-OKVQA": (
        [{"split": "val", "image_id": 461751, "question_id": "22jbM6", "question": ASKED, "choices": ["net", "bar"],
          "correct_choice_idx": 0, "direct_answers": list(TEN)}],
        "000000461751.jpg", ANSWERS,
    ),
    "GQA": (
        {"201307251": {"imageId": "2375429", "question": ASKED, "answer": "net", "fullAnswer": "It is a net."}},
        "2375429.jpg", ONE_ANSWER,
    ),
    "Visual Genome": ([{"id": 1, "qas": [{"question": ASKED, "answer": "net", "qa_id": 9}]}], "1.jpg", ONE_ANSWER),
    "CLEVR": (
        {"questions": [{"question_index": 0, "image_filename": "CLEVR_val_000000.png", "image_index": 0,
                        "question": ASKED, "answer": "net"}]},
        "CLEVR_val_000000.png", ONE_ANSWER,
    ),
    "easy-VQA": ([[ASKED, "net", 5]], "5.png", ONE_ANSWER),
}  # fmt: skip


def written(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(tmp_path: Path, name: str) -> None:
    content, image, expected = PUBLISHED[name]
    assert read_references([written(tmp_path / "references.json", content)]).find([image]) == expected


def test_questions_and_their_answers_in_two_files(tmp_path: Path) -> None:
    urls = [written(tmp_path / "questions.json", QUESTIONS), written(tmp_path / "annotations.json", ANNOTATIONS)]
    for order in (urls, urls[::-1]):
        found = read_references(order)
        assert found.references == {"458752": ANSWERS}
        for name in ("COCO_val2014_000000458752.jpg", "val2014/COCO_val2014_000000458752", "000000458752.jpg", 458752):
            assert found.find([name]) == ANSWERS
        assert [(part.reason, part.count) for part in found.left_out] == [("empty_records", 1)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", "file_name,caption\nb/a.jpg,a cat\nb/a.jpg,\"a cat, asleep\"\n"),
        ("r.tsv", "image\tcaption\na.jpg\ta cat\na.jpg\ta cat, asleep\n"),
        ("captions.txt", "image,caption\na.jpg,a cat\na.jpg,\"a cat, asleep\"\n"),
        ("r.csv", "image_id,caption\n391895,a cat\n391895,\"a cat, asleep\"\n"),
        ("r.jsonl", '{"file_name": "a.jpg", "captions": ["a cat", "a cat, asleep"]}\n'),
        ("r.json", '{"file_name": "a.jpg", "caption": "a cat"}\n{"file_name": "a.jpg", "caption": "a cat, asleep"}\n'),
    ],
)  # fmt: skip
def test_tables(tmp_path: Path, name: str, content: str) -> None:
    expected = [(None, Reference(Kind.CAPTION, ("a cat", "a cat, asleep")))]
    assert read_references([written(tmp_path / name, content)]).find(["a.jpg", COCO_NAME]) == expected


def test_compressed_files_and_parquet(tmp_path: Path) -> None:
    zipped = tmp_path / "coco.json.gz"
    zipped.write_bytes(gzip.compress(json.dumps(COCO).encode()))
    assert read_references([str(zipped)]).find([COCO_NAME]) == CAPTIONS
    table = pa.table({"image_id": [7], "question": [ASKED], "answers": [[{"answer": a, "answer_id": 1} for a in TEN]]})
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_references([str(tmp_path / "r.parquet")]).find([7]) == ANSWERS


def of_names(tmp_path: Path, *names: str) -> ReferenceFile:
    records = [{"image": name, "caption": f"of {name}"} for name in names]
    return read_references([written(tmp_path / "r.json", records)])


@pytest.mark.parametrize(
    ("known", "wanted", "found"),
    [
        (["train/1.jpg"], "1.jpg", "train/1.jpg"),
        (["train/1.jpg"], "train/1", "train/1.jpg"),
        (["1.jpg"], "s3://bucket/images/1.png?version=2", "1.jpg"),
        (["1.jpg"], "images\\1.jpg", "1.jpg"),
        (["./train/1.jpg"], "data/train/1.jpg", "train/1.jpg"),
        (["train/1.jpg", "test/1.jpg"], "data/test/1.jpg", "test/1.jpg"),
        (["train/1.jpg", "test/1.jpg"], "1.jpg", None),  # which of them?
        (["1.jpg", "1.png"], "1.png", "1.png"),
        (["1.jpg", "1.png"], "1", None),
        (["v1.2"], "v1", None),  # no suffix
        (["00000012.jpg"], "12", None),
        (["COCO_val2014_000000000042.jpg"], "42", None),
        (["a.jpg"], "b.jpg", None),
    ],
)
def test_names(tmp_path: Path, known: list[str], wanted: str, found: str | None) -> None:
    texts = [reference.texts for _, reference in of_names(tmp_path, *known).find([wanted])]
    assert len(texts) == (found is not None)
    assert found is None or texts[0][0].removeprefix("of ").removeprefix("./") == found


def test_ids_are_those_of_the_file_and_row_numbers_are_none(tmp_path: Path) -> None:
    found = read_references([written(tmp_path / "coco.json", COCO)])
    assert found.find([391895]) == found.find(["COCO_train2014_000000391895"]) == CAPTIONS
    assert found.find(["391895", "00391895", 770337]) == ()
    assert found.find(["unknown", COCO_NAME]) == CAPTIONS


def test_names_and_ids_in_the_fields_of_a_sample() -> None:
    assert image_names({"file_name": "a.jpg", "image_id": 3, "id": 9, "caption": "x"}) == ["a.jpg", 3]
    assert image_names({"image": {"path": "b/a.jpg", "bytes": b""}, "id": 9}) == ["b/a.jpg"]
    assert image_names({"imageId": "2375429", "image": b"bytes"}) == [2375429]
    assert image_names({"image_id": "003a8ae2ef43b901"}) == ["003a8ae2ef43b901"]
    assert image_names({"image_id": "007"}) == ["007"]
    assert image_names({"id": 9, "uri": "data:image/png;base64,xx"}) == [9]
    assert image_names({"image_id": True, "file_name": " "}) == []


def test_images_of_a_source_are_matched_or_none_is_known(tmp_path: Path) -> None:
    found = of_names(tmp_path, "a.jpg", "b.jpg")
    assert set(found.match([("s/a", ["a"]), ("s/c", ["c"])])) == {"s/a"}
    with pytest.raises(
        UserError, match=r"knows no image of the source: its images are a\.jpg, b\.jpg, the source's c, d$"
    ):
        found.match([(1, ["c"]), (2, ["d", 5])])


def test_a_named_field(tmp_path: Path) -> None:
    url = written(tmp_path / "gqa.json", PUBLISHED["GQA"][0])
    assert read_references([url], "fullAnswer").find(["2375429"]) == [
        (ASKED, Reference(Kind.ANSWER, ("It is a net.",)))
    ]


def test_records_that_say_nothing_are_counted(tmp_path: Path) -> None:
    records = [{"image": "a.jpg", "caption": "a"}, {"image": "b.jpg"}, {"caption": "c"}, 7]
    found = read_references([written(tmp_path / "r.json", records)])
    counts = {part.reason: (part.count, part.examples) for part in found.left_out}
    assert counts == {
        "empty_records": (1, ("b.jpg",)), "unnamed_images": (1, ("without a name",)), "bad_records": (1, ("7",)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ANNOTATIONS, "has answers whose questions are in another file"),
        (QUESTIONS, "says neither captions nor answers"),
        (
            {**COCO, "annotations": [{"image_id": 42, "id": 1, "bbox": [0, 0, 1, 1]}]},
            "says neither captions nor answers",
        ),
        ({"a": 1, "b": [2]}, "is of no known shape"),
        ([1, 2], "is of no known shape"),
        ([{"caption": "a"}], "is of no known shape"),
        ([], "it is empty"),
        ('"text"', "neither a list nor an object"),
        ("no JSON", "cannot read the references of"),
    ],
)
def test_files_that_are_no_references_are_refused_in_a_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        read_references([written(tmp_path / "r.json", content)])
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.json", "none.csv"):
        with pytest.raises(UserError, match=f"cannot read the references of '.*{name}'"):
            read_references([str(tmp_path / name)])
