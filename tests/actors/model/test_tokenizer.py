"""Texts that Unicode does not allow reach a tokenizer in a form that it takes."""

from actors.model.tokenizer import TextCodec, train_tokenizer


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
