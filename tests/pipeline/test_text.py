import itertools
import json
import os

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text import encodable, json_text, original, storable, storable_value

_ANY_TEXT = st.text(alphabet=st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("\\ud8f")))


@given(_ANY_TEXT)
@example("\\\ud83d")
@example("\\ud83d")
@example("\\\\udce9\udce9")
def test_every_text_has_one_form_that_utf8_holds_and_comes_back(text: str) -> None:
    stored = storable(text)
    assert stored.encode("utf-8").decode("utf-8") == stored
    assert original(stored) == text


@given(st.text())
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    if "\\ud" not in text.lower():
        assert storable(text) == text


def test_a_file_name_that_is_not_utf8_is_readable() -> None:
    assert storable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\udce9.jpg"
    assert storable("C:\\users\\dan\\a.jpg") == "C:\\users\\dan\\a.jpg"


def test_texts_inside_values_are_treated_too() -> None:
    assert storable_value({"a\udce9": ["x\ud83d", 1, None, {"b": "y"}]}) == {
        "a\\udce9": ["x\\ud83d", 1, None, {"b": "y"}]
    }


@given(st.recursive(_ANY_TEXT, st.lists, max_leaves=4))
def test_json_gives_the_same_texts_back(value: object) -> None:
    pair = any("\ud800" <= a < "\udc00" <= b < "\ue000" for a, b in itertools.pairwise(str(value)))
    written = json_text(value).encode("utf-8")
    assert json.loads(written) == value or pair, "two halves that make a character are one afterwards"


def test_only_what_cannot_be_encoded_is_changed() -> None:
    assert encodable(["a\udce9", "\\udce9", {"\ud83d": None}]) == ["a\\udce9", "\\udce9", {"\\ud83d": None}]
