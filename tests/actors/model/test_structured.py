"""What tagged texts say is what the library's own processors make of them, on good texts and on mangled ones."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from actors.model.interop.florence2 import TASKS
from actors.model.structured import donut, florence2
from actors.model.tokenizer import TextCodec
from conf.text_rules import OutputStructure, TextRules
from tests.effort import effort

BANNED = ("it", "the image")
KINDS = (
    "ocr", "phrase_grounding", "pure_text", "description_with_bboxes", "polygons", "bboxes",
    "description_with_bboxes_or_polygons",
)  # fmt: skip

places = st.sampled_from([1, 2, 3, 4, 4, 4, 5, 8, 8, 9]).flatmap(
    lambda count: st.lists(st.integers(0, 999), min_size=count, max_size=count)
).map(lambda bins: "".join(f"<loc_{number}>" for number in bins))  # fmt: skip
phrases = st.sampled_from(["car", " a dog", "it", "the image", "Zoë ", "x\ny", " tree\n", "\n", " ", ">"])
marks = st.sampled_from([
    "<sep>", "<poly>", "</poly>", "<s>", "</s>", "<pad>", "<od>", "<loc_", "<loc_12", "<", "<ground>", "<loc_3><sep>",
])  # fmt: skip
florence2_texts = st.lists(st.one_of(places, phrases, places, phrases, marks), max_size=14).map("".join)
sizes = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


@pytest.fixture(scope="module")
def florence2_processor() -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    plain = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, extra_special_tokens={"image_token": "<image>"})
    images = CLIPImageProcessorPil()
    images.image_seq_length = 5
    config: dict[str, Any] = {kind: {} for kind in KINDS}
    config["phrase_grounding"]["banned_grounding_tokens"] = list(BANNED)
    return Florence2Processor(images, tokenizer, post_processor_config=config)


@settings(max_examples=effort(150, 10_000), deadline=None)
@given(florence2_texts, st.sampled_from(list(TASKS)), sizes)
def test_florence2_boxes_and_polygons_equal_the_library(
    florence2_processor: Any, text: str, task: str, size: tuple[int, int]
) -> None:
    theirs = florence2_processor.post_process_generation(text=text, task=task, image_size=size)[task]
    assert florence2.fields_of(text, task, size, BANNED) == (None if isinstance(theirs, str) else theirs)


def test_florence2_pixels_equal_the_library_for_every_place(florence2_processor: Any) -> None:
    text = "".join(f"<loc_{number}>" for number in range(1000))
    for size in [(640, 480), (1, 1), (333, 4001), (768, 768), (1023, 7)]:
        theirs = florence2_processor.post_process_generation(text=text, task="<REGION_PROPOSAL>", image_size=size)
        assert florence2.fields_of(text, "<REGION_PROPOSAL>", size) == theirs["<REGION_PROPOSAL>"]


names = st.sampled_from(["a", "b", "cord-v2", "A", "a.b"])
leaves = st.sampled_from(["<sep/>", "<paid/>", "<unpaid/>", " tea", "3.00", " \n", "x", "<s_", ">", "<"])
stray = names.flatmap(lambda name: st.sampled_from([f"<s_{name}>", f"</s_{name}>", f"<S_{name}>", f"</S_{name}>"]))
donut_texts = st.recursive(
    st.one_of(leaves, leaves, stray),
    lambda inner: st.lists(
        st.one_of(
            st.tuples(names, inner).map(lambda pair: f"<s_{pair[0]}>{pair[1]}</s_{pair[0]}>"), inner, st.just("<sep/>")
        ),
        max_size=4,
    ).map("".join),
    max_leaves=14,
)


@settings(max_examples=effort(150, 10_000), deadline=None)
@given(donut_texts, st.integers(0, 200))
def test_donut_values_equal_the_library(text: str, lost: int) -> None:
    from transformers.models.donut.processing_donut import DonutProcessor

    added, library = {"<paid/>": 1, "<s_menu>": 2, "<sep/>": 3}, DonutProcessor.__new__(DonutProcessor)
    for mangled in (text, text[:lost] + text[lost + 1 :]):
        theirs = library.token2json(mangled, added_vocab=added)
        assert donut.fields_of(mangled, added) == theirs


def tagged_codec(structure: OutputStructure, special: list[str], words: list[str]) -> TextCodec:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<s>", "<pad>", "</s>", *words])}))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer.add_special_tokens(special)
    rules = TextRules(leading_space=False, tasks=TASKS, structure=structure, keep_special_tokens=True)
    return TextCodec(tokenizer, rules, marker_ids=(0, 1, 2))


def test_tokens_become_boxes_in_pixels_of_the_original_image() -> None:
    places = [f"<loc_{number}>" for number in (0, 100, 400, 999)]
    codec = tagged_codec(OutputStructure(kind="florence2", banned_phrases=("it",)), places, ["car", "it"])
    said = codec.encode("car <loc_0> <loc_100> <loc_400> <loc_999> it <loc_0> <loc_0> <loc_0> <loc_0>")
    said = (0, *said, 1)

    def read(prompt: str) -> Any:
        found = codec.fields(said, prompt, (2000, 500))
        return None if found is None else json.loads(found)

    car, it = [1, 50, 801, 499], [1, 0, 1, 0]
    assert read("<OD>") == {"bboxes": [car, it], "labels": ["car", "it"]}
    assert read("<CAPTION_TO_PHRASE_GROUNDING> it is a car") == {"bboxes": [car], "labels": ["car"]}
    assert read("<CAPTION>") is read("what is it?") is None
    assert codec.decode(said) == "car<loc_0><loc_100><loc_400><loc_999>it<loc_0><loc_0><loc_0><loc_0>"


def test_tags_become_json_and_what_is_nested_too_deeply_is_null() -> None:
    deep = [f"<s_{level}>" for level in range(2000)], [f"</s_{level}>" for level in reversed(range(2000))]
    tags = ["<s_menu>", "</s_menu>", "<s_nm>", "</s_nm>", "<sep/>", "<paid/>", *deep[0], *deep[1]]
    codec = tagged_codec(OutputStructure(kind="donut"), tags, ["tea", "Zoë"])
    said = codec.encode("<s_menu> <s_nm> tea </s_nm> <sep/> <s_nm> <paid/> </s_nm> </s_menu>")
    assert json.loads(codec.fields((2, *said, 2), "", (9, 9)) or "") == {"menu": [{"nm": "tea"}, {"nm": "paid"}]}
    assert codec.fields(codec.encode("tea Zoë"), "", (9, 9)) == '{"text_sequence": "teaZoë"}'
    assert codec.fields(codec.encode(" ".join([*deep[0], "tea", *deep[1]])), "", (9, 9)) is None
