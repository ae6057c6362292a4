"""What is right for a row, by the fields of its sample."""

import pytest

from pipeline.source.references import Kind, reference_fields, reference_of


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
    assert reference_of(Fields(caption="a dog"), "p") is not None
    assert set(asked) == set(reference_fields)
