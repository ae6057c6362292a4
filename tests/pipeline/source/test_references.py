"""What is right for a row, by the fields of its sample."""

import pytest

from pipeline.source.references import (
    Kind,
    Reference,
    reference_fields,
    reference_for,
    reference_of,
    references_in,
)


@pytest.mark.parametrize(
    ("fields", "prompt", "kind", "texts"),
    [
        ({"caption": "a dog"}, None, Kind.CAPTION, ("a dog",)),
        ({"captions": ["a dog", " a cat "]}, None, Kind.CAPTION, ("a dog", "a cat")),
        ({"txt": "a dog\n"}, None, Kind.CAPTION, ("a dog",)),
        ({"captions": [{"prompt": "p", "text": "a"}, {"prompt": "q", "text": "b"}]}, "q", Kind.CAPTION, ("b",)),
        ({"captions": [{"prompt": "p", "text": "a"}, {"prompt": "q", "text": "b"}]}, "r", Kind.CAPTION, ("a", "b")),
        ({"qa": [{"question": "q", "answer": "2"}, {"question": "r", "answer": "3"}]}, "r", Kind.ANSWER, ("3",)),
        ({"qa": [{"question": "q", "answer": "2"}], "caption": "c"}, "describe", Kind.CAPTION, ("c",)),
        ({"answers": ["yes", "yes", "no"]}, "q", Kind.ANSWER, ("yes", "yes", "no")),
    ],
)
def test_references_in_the_usual_fields(
    fields: dict[str, object], prompt: str | None, kind: Kind, texts: tuple[str, ...]
) -> None:
    reference = reference_of(fields, prompt)
    assert (reference.kind, reference.texts) == (kind, texts)


@pytest.mark.parametrize("fields", [{}, {"caption": None}, {"captions": [1, {"text": 2}]}, {"caption": "  "}])
def test_fields_without_a_reference(fields: dict[str, object]) -> None:
    assert reference_of({**fields, "objects": "none"}, "p") is None


def test_a_named_field_and_the_objects_of_an_image() -> None:
    fields = {"mine": "a dog", "caption": "other", "objects": [{"name": "dog"}, {"name": "dog"}, {"x": 1}, 3]}
    reference = reference_of(fields, None, "mine")
    assert (reference.texts, reference.object_names) == (("a dog",), ("dog",))


def test_references_of_a_prompt_with_half_a_character_are_found() -> None:
    half = chr(0xD83D)
    fields = {"qa": [{"question": f"what is {half}?", "answer": half}, {"question": "else?", "answer": "b"}]}
    found = reference_of(fields, "what is \\ud83d?")
    assert found is not None
    assert found.texts == ("\\ud83d",)


def test_the_fields_that_may_be_read_are_known() -> None:
    asked: list[str] = []

    class Fields(dict[str, object]):
        def get(self, name: str, default: object = None) -> object:
            asked.append(name)
            return super().get(name, default)

    assert reference_of(Fields(), "p") is None
    assert reference_of(Fields(question="p", label="a dog"), "p") is not None
    assert reference_of(Fields(question="p", answer=3), "p") is not None
    assert set(asked) == set(reference_fields)


FIVE = [f"a man with a red helmet, number {n}" for n in range(5)]
TEN = ["net"] * 6 + ["netting", "net", "mesh", "net"]
ASKED = "What is this photo taken looking through?"
CAPTION_TASK = "Please carefully observe the image and come up with a caption for the image."
VQA_ANSWERS = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(TEN, 1)]
VQA_ROW = {
    "question_type": "what is this", "multiple_choice_answer": "net", "image_id": 458752, "answer_type": "other",
    "question_id": 458752000, "question": ASKED,
}  # fmt: skip

# Rows as the data sets are published on the Hugging Face hub, or in their original files; images are left out.
CAPTION_ROWS = {
    "lmms-lab/COCO-Caption": {
        "question_id": "COCO_val2014_000000203564.jpg", "question": CAPTION_TASK, "answer": FIVE, "id": 0,
        "license": 4, "file_name": "COCO_val2014_000000203564.jpg", "coco_url": "http://images.cocodataset.org/x.jpg",
    },
    "HuggingFaceM4/COCO, 2014_captions": {
        "filepath": "val2014", "sentids": [1, 2, 3, 4, 5], "filename": "COCO_val2014_000000391895.jpg", "imgid": 0,
        "split": "test", "sentences_tokens": [["a", "man"]] * 5, "sentences_raw": FIVE,
        "sentences_sentid": [1, 2, 3, 4, 5], "cocoid": 391895,
    },
    "Karpathy's dataset_coco.json": {
        "filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test", "cocoid": 391895,
        "sentences": [{"tokens": ["a", "man"], "raw": text, "imgid": 0, "sentid": n} for n, text in enumerate(FIVE)],
    },
    "the same as a sequence feature": {
        "filename": "COCO_val2014_000000391895.jpg",
        "sentences": {"tokens": [["a", "man"]] * 5, "raw": FIVE, "imgid": [0] * 5, "sentid": [1, 2, 3, 4, 5]},
    },
    "lmms-lab/NoCaps": {
        "image_coco_url": "https://s3.amazonaws.com/nocaps/val/0013ea2087020901.jpg", "image_id": 0,
        "image_file_name": "0013ea2087020901.jpg", "annotations_ids": [0, 1, 2, 3, 4], "annotations_captions": FIVE,
    },
    "lmms-lab/TextCaps": {
        "question_id": "0a0b", "question": CAPTION_TASK, "image_id": "0a0b", "image_classes": ["Poster"],
        "caption_id": [1, 2, 3, 4, 5], "caption_str": FIVE, "reference_strs": FIVE,
    },
    "lmms-lab/flickr30k": {
        "caption": FIVE, "sentids": ["0", "1", "2", "3", "4"], "img_id": "0", "filename": "1000092795.jpg",
    },
    "captions as JSON in a text column": {"captions": '["' + '", "'.join(FIVE) + '"]'},
    "annotations of a COCO image": {"captions": [{"image_id": 9, "id": n, "caption": c} for n, c in enumerate(FIVE)]},
}  # fmt: skip
CAPTION_ROWS_OF_ONE = {
    "bitmind/MS-COCO": {
        "filename": "COCO_val2014_000000391895.jpg", "cocoid": 391895,
        "sentences": {"tokens": ["a", "man"], "raw": FIVE[0], "imgid": 0, "sentid": 1},
    },
    "metadata.jsonl of an image folder": {"file_name": "0001.png", "text": FIVE[0]},
    "original TextCaps, without its references": {"image_id": "0a0b", "caption_str": FIVE[0], "caption_id": 1},
    "a text file beside each image": {"txt": FIVE[0] + "\n"},
}  # fmt: skip
ANSWER_ROWS = {
    "lmms-lab/VQAv2": {**VQA_ROW, "answers": VQA_ANSWERS},
    "VizWiz as a sequence feature": {
        "question": ASKED, "answers": {"answer": TEN, "answer_confidence": ["yes"] * 10, "answer_id": list(range(10))},
    },
    "OK-VQA": {**VQA_ROW, "answers": [{**one, "raw_answer": one["answer"] + "s"} for one in VQA_ANSWERS]},
    "A-OKVQA": {"question": ASKED, "choices": ["net", "bars"], "correct_choice_idx": 0, "direct_answers": TEN},
    "lmms-lab/textvqa": {"question_id": 34602, "question": ASKED, "image_classes": ["Net"], "answers": TEN},
    "lmms-lab/VizWiz-VQA": {"question_id": "1", "question": ASKED, "answers": TEN, "category": "other"},
    "Multimodal-Fatima/VQAv2": {**VQA_ROW, "answers": TEN, "answers_original": VQA_ANSWERS, "blip_caption": FIVE[0]},
    "answers as JSON in a text column": {"question": ASKED, "answers": str(VQA_ANSWERS).replace("'", '"')},
    "a list of questions": {"qa": [{"question": "who?", "answers": ["he"]}, {"question": ASKED, "answers": TEN}]},
    "questions and answers as columns": {"qa": {"question": ["who?", ASKED], "answers": [["he"], TEN]}},
}  # fmt: skip
ANSWER_ROWS_OF_ONE = {
    "merve/vqav2-small": {"multiple_choice_answer": "net", "question": ASKED},
    "lmms-lab/DocVQA": {
        "questionId": "49153", "question": ASKED, "question_types": ["handwritten"], "docId": 14465,
        "ucsf_document_id": "pybv0228", "answers": ["net"], "data_split": "val",
    },
    "nielsr/docvqa_1200_examples": {
        "id": "train_0", "query": {"de": "Was?", "en": ASKED, "fr": "Quoi?"}, "answers": ["net"],
        "words": ["a", "net"], "answer": {"match_score": 1.0, "matched_text": "net", "start": 1, "text": "net"},
    },
    "HuggingFaceM4/ChartQA": {"query": ASKED, "label": ["net"], "human_or_machine": 0},
    "ahmed-masry/ChartQA": {"imgname": "41699051005347.png", "query": ASKED, "label": "net", "type": "human"},
    "lmms-lab/ChartQA": {"type": "human_test", "question": ASKED, "answer": "net"},
    "answers by language": {"query": {"en": ASKED}, "answers": {"en": ["net"], "fr": ["filet"]}},
    "lmms-lab/GQA": {
        "id": "201307251", "imageId": "n161313", "question": ASKED, "answer": "net", "fullAnswer": "It is a net.",
        "isBalanced": True, "annotations": {"answer": [], "fullAnswer": [], "question": []},
    },
    "easy-vqa": {"question": ASKED, "answer": "net", "image_id": 7},
    "Visual Genome": {"id": 1, "qas": [{"qa_id": 9, "question": "who?", "answer": "he"},
                                       {"qa_id": 8, "question": ASKED, "answer": "net"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", [*CAPTION_ROWS, *CAPTION_ROWS_OF_ONE])
def test_captions_of_published_rows(name: str) -> None:
    row, texts = (CAPTION_ROWS[name], FIVE) if name in CAPTION_ROWS else (CAPTION_ROWS_OF_ONE[name], FIVE[:1])
    assert reference_of(row, "describe the image") == Reference(Kind.CAPTION, tuple(texts))
    assert references_in(row) == [(None, Reference(Kind.CAPTION, tuple(texts)))]
    assert reference_of(row, None) == Reference(Kind.CAPTION, tuple(texts))


@pytest.mark.parametrize("name", [*ANSWER_ROWS, *ANSWER_ROWS_OF_ONE])
def test_answers_of_published_rows(name: str) -> None:
    row, texts = (ANSWER_ROWS[name], TEN) if name in ANSWER_ROWS else (ANSWER_ROWS_OF_ONE[name], ["net"])
    answers = Reference(Kind.ANSWER, tuple(texts))  # those of ten people are ten, in their order
    assert reference_of(row, ASKED) == answers
    assert reference_of(row, f"Question: {ASKED} Short answer:") == answers
    assert (ASKED, answers) in references_in(row)
    assert reference_of(row, "describe the image") is None


@pytest.mark.parametrize(
    "row",
    [
        {**VQA_ROW, "answers": None, "multiple_choice_answer": None},  # of a test split
        {"question": ASKED, "answers": [""] * 10},
        {"label": "Siamese cat"},  # a class
        {"label": 3, "question": ASKED},
        {"question": ASKED, "choices": ["net", "bars"], "answer": 1},  # the place of a choice
        {"answers": 5},
        {"question": ASKED, "answer": float("nan")},
        {"captions": {}},
        {"captions": b"bytes"},
        {"answers": {"answer": []}},
    ],
)
def test_rows_that_say_nothing(row: dict[str, object]) -> None:
    assert reference_of(row, ASKED) is None
    assert references_in(row) == []


@pytest.mark.parametrize(
    ("row", "field", "kind", "texts"),
    [
        ({"json": {"captions": FIVE, "caption": "other"}}, "json.captions", Kind.CAPTION, FIVE),
        ({"json": '{"captions": ["a [dog]"]}'}, "json.captions", Kind.CAPTION, ["a [dog]"]),
        ({"qa": {"question": "q", "answer": "x"}}, "qa.answer", Kind.ANSWER, ["x"]),
        ({"qa": [{"question": "p", "answer": "x"}, {"question": "q", "answer": "y"}]}, "qa.answer", Kind.ANSWER, ["y"]),
        ({"meta": '{"qa": [{"question": "q", "full": "x"}]}'}, "meta.qa.full", Kind.ANSWER, ["x"]),
        ({"captions": {"en": ["a"], "fr": ["un"]}}, "captions.fr", Kind.CAPTION, ["un"]),
        ({"question": "other", "fullAnswer": "It is x."}, "fullAnswer", Kind.ANSWER, ["It is x."]),
        ({"answer": {"text": "x", "start": 1}}, "answer.text", Kind.ANSWER, ["x"]),
        ({"gt": [{"question": "q", "answer": "x"}]}, "gt", Kind.ANSWER, ["x"]),
        ({"a.b": "x", "a": {"b": "y"}}, "a.b", Kind.CAPTION, ["x"]),
        (
            {"ground_truth": '{"text": "x", "total": "3"}'},
            "ground_truth",
            Kind.CAPTION,
            ['{"text": "x", "total": "3"}'],
        ),
        ({"ground_truth": '[{"item": "tea"}]'}, "ground_truth", Kind.CAPTION, ['[{"item": "tea"}]']),
        ({"question": "how many?", "answer": 3.0}, "answer", Kind.ANSWER, ["3"]),
        ({"question": "how long?", "answer": 2.5}, "answer", Kind.ANSWER, ["2.5"]),
        ({"caption": "[a dog"}, "caption", Kind.CAPTION, ["[a dog"]),
    ],
)
def test_a_named_field(row: dict[str, object], field: str, kind: Kind, texts: list[str]) -> None:
    assert reference_of(row, "q", field) == Reference(kind, tuple(texts))


def test_a_named_field_that_is_not_there() -> None:
    assert reference_of({"caption": "a dog", "a": "text"}, "q", "a.b") is None
    assert reference_of({"caption": "a dog", "a": [1, {"b": 2}]}, "q", "a.b.c") is None


def test_all_that_a_sample_says_is_told_for_training() -> None:
    row = {
        "captions": ["a dog", {"text": "a dog sits", "prompt": "in detail"}],
        "qa": [{"question": "how many?", "answer": 1}, {"question": "where?", "answers": ["here", "here"]}],
        "objects": [{"name": "dog"}],
    }
    assert references_in(row) == [
        ("how many?", Reference(Kind.ANSWER, ("1",))),
        ("where?", Reference(Kind.ANSWER, ("here", "here"))),
        (None, Reference(Kind.CAPTION, ("a dog",), ("dog",))),
        ("in detail", Reference(Kind.CAPTION, ("a dog sits",), ("dog",))),
    ]


def test_the_longest_question_in_a_prompt_is_the_one_that_is_asked() -> None:
    known = [(asked, Reference(Kind.ANSWER, (asked,))) for asked in ("the dog?", "where is the dog?", "is it?")]
    assert reference_for(known, "Q: where is the dog? A:") == Reference(Kind.ANSWER, ("where is the dog?",))
    assert reference_for(known, "why?") is None
    assert reference_for(known, None) is None
    assert reference_for(known[:1], None) == known[0][1]


def test_a_caption_is_scored_where_no_question_of_the_sample_is_asked() -> None:
    row = {**VQA_ROW, "answers": VQA_ANSWERS, "caption": "a man"}
    assert reference_of(row, "describe the image") == Reference(Kind.CAPTION, ("a man",))
    assert reference_of(row, ASKED).kind is Kind.ANSWER
