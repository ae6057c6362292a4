"""Text <-> token ids by a BPE tokenizer of the `tokenizers` library."""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2


def train_tokenizer(texts: Iterable[str] | Iterator[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE that spells capitals and digits one by one, so that signs are copied, not memorised."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" " + text for text in texts), trainer)
    return tokenizer


class TextCodec:
    """Encode prompts and targets, decode outputs.

    Texts get a leading space before encoding, so that a word has one spelling wherever it stands.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(" " + text, add_special_tokens=False).ids)

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> tuple[int, ...]:
        return self.encode(text)[:max_tokens]

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text each token adds, for galleries; joined and stripped they give `decode`."""
        return [str(self.tokenizer.decode([token_id], skip_special_tokens=True)) for token_id in token_ids]
