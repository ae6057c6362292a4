"""Texts that Unicode does not allow reach a tokenizer in a form that it takes; special tokens stay where wanted."""

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from actors.model.tokenizer import TextCodec, train_tokenizer
from conf.text_rules import TextRules


def test_half_a_character_is_encoded_like_its_escaped_form() -> None:
    codec = TextCodec(train_tokenizer(["a few words", "and more"], 300))
    assert codec.encode("half \ud83d") == codec.encode("half \\ud83d")
    assert codec.decode(codec.encode_prompt("caf\udce9")) == "caf\\udce9"


def test_of_a_prompt_that_is_cut_only_the_beginning_is_tokenised() -> None:
    lengths: list[int] = []

    class Watched(TextCodec):
        def encode(self, text: str) -> tuple[int, ...]:
            lengths.append(len(text))
            return super().encode(text)

    codec, text = Watched(train_tokenizer(["a few words of text"] * 3, 300)), "a few words of text " * 2_000_000
    assert codec.encode_prompt(text, 8) == codec.encode_prompt(text[:1000], 8)
    assert lengths == [100_000, 1000]


@pytest.mark.parametrize("leading_space", [True, False])
@pytest.mark.parametrize("rule", [True, False])
def test_special_tokens_stay_where_wanted_and_markers_never(leading_space: bool, rule: bool) -> None:
    tokenizer = train_tokenizer(["a car and a cart"], 300)
    tokenizer.add_special_tokens(["<loc_52>", "<loc_100>"])
    tokenizer.add_tokens(["<sep/>"])  # part of a text anyway
    codec = TextCodec(tokenizer, TextRules(leading_space=leading_space, keep_special_tokens=rule), marker_ids=(0, 1, 2))
    said = [1, *codec.encode("car<loc_52><loc_100><sep/>cart"), 2, 0]
    kept, left_out = "car<loc_52><loc_100><sep/>cart", "car<sep/>cart"
    assert codec.decode(said, True) == kept
    assert codec.decode(said, False) == left_out
    assert codec.decode(said) == (kept if rule else left_out)
    for keep in (True, False, None):
        pieces = codec.pieces(said, keep)
        assert len(pieces) == len(said)
        assert "".join(pieces).strip() == codec.decode(said, keep)


def test_pieces_of_long_outputs_cost_what_decoding_costs_and_join_to_their_text() -> None:
    decoded: list[int] = []

    class Watched(TextCodec):
        def _text(self, token_ids: Sequence[int], keep_special: bool | None) -> str:
            decoded.append(len(token_ids))
            return super()._text(token_ids, keep_special)

    tokenizer = train_tokenizer(["a few words"], 300)
    codec = Watched(tokenizer, TextRules(leading_space=False))
    said = codec.encode("words 日本 a few caf\u00e9 words " * 40)  # bytes of their characters are tokens
    pieces = codec.pieces(said)
    assert "".join(pieces).strip() == codec.decode(said)
    assert len(pieces) == len(said)
    assert "日" in pieces
    assert sum(decoded) < 12 * len(said)


def test_pieces_of_word_pieces_and_of_texts_that_depend_on_all_that_was_said() -> None:
    words = {word: i for i, word in enumerate(["[UNK]", "do", "stop", "##ping", "."])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=True)
    codec = TextCodec(tokenizer, TextRules(leading_space=False))
    assert codec.pieces(codec.encode("do stopping . stop")) == ["do", " stop", "ping", ".", " stop"]

    class Counting(TextCodec):
        def _text(self, token_ids: Sequence[int], keep_special: bool | None) -> str:
            return "".join(f" {place}" for place, _ in enumerate(token_ids))

    assert Counting(tokenizer, TextRules(leading_space=False)).pieces((1, 2, 1, 2)) == [" 0", " 1", " 2", " 3"]
