"""Texts that Unicode does not allow reach a tokenizer in a form that it takes."""

from actors.model.tokenizer import TextCodec, train_tokenizer


def test_half_a_character_is_encoded_like_its_escaped_form() -> None:
    codec = TextCodec(train_tokenizer(["a few words", "and more"], 300))
    assert codec.encode("half \ud83d") == codec.encode("half \\ud83d")
    assert codec.decode(codec.encode_prompt("caf\udce9")) == "caf\\udce9"
