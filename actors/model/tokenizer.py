"""Text <-> token ids by a BPE tokenizer of the `tokenizers` library."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from actors.model.structured import donut, florence2
from actors.model.word_boxes import FAR_CORNER, pack, split_words
from conf.errors import UserError
from conf.model import ModelConfig
from conf.text_rules import TextRules, longest_prompt
from pipeline.text import encodable

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


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; UserError in one sentence where the library cannot make one of it."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # bare Exception, and what a panic of the library becomes
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"tokenizer {str(path)!r} cannot be read: {reason}") from None
    tokenizer.no_padding()  # some files carry what their last user had set
    tokenizer.no_truncation()
    return tokenizer


class TextCodec:
    """Encode prompts and targets, decode outputs, by the rules a checkpoint carries."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        rules: TextRules | None = None,
        vocab_size: int | None = None,
        max_prompt_tokens: int | None = None,
        marker_ids: Collection[int] = (),
        qformer_tokenizer: Tokenizer | None = None,
    ) -> None:
        """`marker_ids` start, end or pad an output and are in no text, even where special tokens are."""
        self.tokenizer, self.rules, self.qformer_tokenizer = tokenizer, rules or TextRules(), qformer_tokenizer
        self.vocab_size = tokenizer.get_vocab_size() if vocab_size is None else vocab_size
        self.max_prompt_tokens, self._marker_ids = max_prompt_tokens, frozenset(marker_ids)

    @classmethod
    def of(cls, tokenizer: Tokenizer, model: ModelConfig, qformer_tokenizer: Tokenizer | None = None) -> "TextCodec":
        """Return the codec of a checkpoint."""
        rules, forced = model.text, model.generation.forced_bos_id
        markers = (model.start_id, model.eos_id, model.pad_id, *(() if forced is None else (forced,)))
        most = model.encoder.max_prompt_tokens
        return cls(tokenizer, rules, model.decoder.vocab_size, most, markers, qformer_tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        """Text -> ids, nothing added but the leading space that gives a word one spelling wherever it stands."""
        spaced = " " + text if self.rules.leading_space else text
        return tuple(self.tokenizer.encode(encodable(spaced), add_special_tokens=False).ids)

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> tuple[int, ...]:
        """What the encoder reads of a prompt; words found in the image are left out from where they do not fit.

        Ids of a Q-Former's own tokenizer follow, counted on from the end of the vocabulary.
        """
        rules = self.rules
        if rules.prompt == "none":
            return (0,)  # a place holder: the encoder does not look at it
        if rules.prompt == "bytes":
            return tuple((text or " ").encode())[:max_tokens]
        if self.qformer_tokenizer is None:
            return self._prompt_tokens(text, max_tokens)
        half = None if max_tokens is None else max_tokens // 2
        ids = self.qformer_tokenizer.encode(encodable(text)).ids[:half]
        return (*self._prompt_tokens(text, half), *(self.vocab_size + token_id for token_id in ids))

    def _prompt_tokens(self, text: str, max_tokens: int | None) -> tuple[int, ...]:
        rules = self.rules
        question, words = split_words(text) if rules.words else (text, [])
        if max_tokens is not None:  # what lies far behind the cut is not tokenised at all
            question = question[: longest_prompt(max_tokens)]
        ids = list(self.encode(self._with_image(self._task(question))))
        if strangers := [token_id for token_id in ids if token_id >= self.vocab_size]:
            raise ValueError(f"the prompt holds {self.tokenizer.id_to_token(strangers[0])!r}, which no prompt may")
        ends = len(rules.words_end_ids)
        around = len(rules.prefix_ids) + len(rules.suffix_ids) + ends
        ids = [*rules.prefix_ids, *ids[: None if max_tokens is None else max(0, max_tokens - around)]]
        ids += pack(rules.suffix_ids, FAR_CORNER, self.vocab_size) if ends else rules.suffix_ids
        most = self.max_prompt_tokens if max_tokens is None else max_tokens
        for word in words:
            more = pack(self.encode(word.text), word.box, self.vocab_size)
            if most is not None and len(ids) + len(more) + ends > most:
                break
            ids += more
        return (*ids, *pack(rules.words_end_ids, FAR_CORNER, self.vocab_size))

    def _task(self, text: str) -> str:
        """`<TASK>` or `<TASK> what it is about` -> the prompt it stands for."""
        task = self._task_of(text)
        if task is None:
            return text
        prompt, rest = self.rules.tasks[task], text.removeprefix(task).strip()
        if rest and "{input}" not in prompt:
            raise ValueError(f"nothing may follow the task {task}, got {rest!r}")
        return prompt.replace("{input}", rest)

    def _task_of(self, prompt: str) -> str | None:
        return next((task for task in self.rules.tasks if prompt.startswith(task)), None)

    def _with_image(self, text: str) -> str:
        """Give the prompt the tokens of its image, as text; ValueError where it asks for more than one."""
        image = self.rules.image
        if image is None:
            return text
        begin, middle, end = (self.tokenizer.id_to_token(i) for i in (image.begin_id, image.image_id, image.end_id))
        if middle in text:
            raise ValueError(f"the prompt holds {middle!r}, which no prompt may")
        if (asked := text.count(begin)) > 1:
            raise ValueError(f"the prompt asks for {asked} images with {begin!r}, a sample has one")
        placed = text if asked else begin + text
        return placed.replace(begin, f"\n\n{begin}{middle}{end}\n\n")

    def decode(self, token_ids: Sequence[int], keep_special: bool | None = None) -> str:
        """Return the text of an output; `keep_special` None: special tokens as the checkpoint's rules have them."""
        return self._text(token_ids, keep_special).strip()

    def pieces(self, token_ids: Sequence[int], keep_special: bool | None = None) -> list[str]:
        """Return the text each token adds, for galleries; joined and stripped they give `decode`."""
        if self.rules.leading_space:  # byte-level: a token's text does not depend on its neighbours
            return [self._text([token_id], keep_special) for token_id in token_ids]
        pieces = self._pieces_in_windows(token_ids, keep_special)
        whole = self._text(token_ids, keep_special)
        return pieces if "".join(pieces) == whole else self._pieces_of_beginnings(token_ids, keep_special)

    def _pieces_in_windows(self, token_ids: Sequence[int], keep_special: bool | None) -> list[str]:
        """Decode each token with what was said last, which is all that the text of one depends on almost everywhere;
        a character of several tokens comes with the last of them."""
        pieces: list[str] = []
        start = done = 0  # the window begins at `start`; the text of what is before `done` is out
        for end in range(1, len(token_ids) + 1):
            before, text = (
                self._text(token_ids[start:done], keep_special),
                self._text(token_ids[start:end], keep_special),
            )
            unfinished = text.endswith("\ufffd") and end < len(token_ids)
            pieces.append("" if unfinished or not text.startswith(before) else text[len(before) :])
            if pieces[-1]:
                start, done = done, end
        return pieces

    def _pieces_of_beginnings(self, token_ids: Sequence[int], keep_special: bool | None) -> list[str]:
        """Decode every beginning of the output: for tokenizers that change what stands further back."""
        pieces, before = [], ""
        for end in range(1, len(token_ids) + 1):
            text = self._text(token_ids[:end], keep_special)
            pieces.append(text[len(before) :] if text.startswith(before) else "")
            before = text if text.startswith(before) else before
        return pieces

    def fields(self, token_ids: Sequence[int], prompt: str, size: tuple[int, int]) -> str | None:
        """Return what an output, its prefix included, says besides words, as JSON; None where the model or the prompt's
        task has no such thing, or where it cannot be written down. `size`: the original image's, width first."""
        structure = self.rules.structure
        if structure is None:
            return None
        text = self.decode(token_ids, keep_special=True)
        try:
            found: object
            if structure.kind == "florence2":
                found = florence2.fields_of(text, self._task_of(prompt), size, structure.banned_phrases)
            else:
                found = donut.fields_of(text, self._added_tokens)
            return None if found is None else json.dumps(found, ensure_ascii=False)
        except (ValueError, OverflowError, RecursionError):  # numbers no image has, or tags nested a thousand deep
            return None

    @cached_property
    def _added_tokens(self) -> frozenset[str]:
        return frozenset(token.content for token in self.tokenizer.get_added_tokens_decoder().values())

    def _text(self, token_ids: Sequence[int], keep_special: bool | None) -> str:
        if not (self.rules.keep_special_tokens if keep_special is None else keep_special):
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
        said = [token_id for token_id in token_ids if token_id not in self._marker_ids]
        return str(self.tokenizer.decode(said, skip_special_tokens=False))
