"""Texts among the generation options -> token ids. No torch here: a job checks its texts before it starts anything."""

from collections.abc import Sequence
from pathlib import Path

from actors.model.tokenizer import TextCodec, load_tokenizer
from actors.model.word_boxes import split_words
from conf.checkpoint_files import TOKENIZER_FILE
from conf.engine import PROMPT_PLACE, GenerationConfig
from conf.errors import UserError
from conf.model import ModelConfig
from conf.resolve import room_for_prompts
from conf.source import DEFAULT_PROMPT


def tokenized_for(generation: GenerationConfig, model: ModelConfig, checkpoint: str | Path) -> GenerationConfig:
    """Return the same options in token ids, by the tokenizer of the checkpoint, which need not be loaded."""
    codec = TextCodec.of(load_tokenizer(Path(checkpoint) / TOKENIZER_FILE), model)
    return tokenized(generation, codec, model.decoder.max_positions)


def tokenized(generation: GenerationConfig, codec: TextCodec, positions: int) -> GenerationConfig:
    """Return the same options in token ids, with the checkpoint's prefix where they have none.

    `positions`: of the decoder, for prefixes and outputs together.
    """
    generation = generation.model_copy(update={"decoder_prefix": _prefix_text(generation, codec)})
    changes: dict[str, object] = {}
    if generation.bad_words:
        ids = {spelling for word in generation.bad_words for spelling in _spellings(word, codec)}
        changes |= {"bad_words": (), "bad_word_ids": (*generation.bad_word_ids, *sorted(ids))}
    if PROMPT_PLACE in generation.decoder_prefix:
        changes |= {"decoder_prefix": "", "max_prefix_tokens": room_for_prompts(generation, positions)}
    elif generation.decoder_prefix:
        changes |= {"decoder_prefix": "", "prefix_ids": codec.encode(generation.decoder_prefix)}
    return generation.model_copy(update=changes)


def goes_on_from_prompt(generation: GenerationConfig, codec: TextCodec) -> bool:
    """Return whether a prompt is the beginning of what its output says, as the model has it and no option changes."""
    return not generation.decoder_prefix and _prefix_text(generation, codec) == PROMPT_PLACE


def prefix_of(prompt: str, generation: GenerationConfig, codec: TextCodec) -> tuple[int, ...] | None:
    """Return the decoder prefix of a request where it depends on its prompt; None: the engine's."""
    text = _prefix_text(generation, codec)
    if goes_on_from_prompt(generation, codec) and prompt == DEFAULT_PROMPT:
        return ()
    if PROMPT_PLACE not in text:
        return None
    question = split_words(prompt)[0] if codec.rules.words else prompt
    return codec.encode(text.replace(PROMPT_PLACE, question))


def prefix_ids_of(prompt: str, generation: GenerationConfig, codec: TextCodec) -> tuple[int, ...]:
    """Return what the output of a request begins with, whether or not that depends on its prompt."""
    own = prefix_of(prompt, generation, codec)
    if own is not None:
        return own
    text = _prefix_text(generation, codec)
    return codec.encode(text) if text else generation.prefix_ids


def _prefix_text(generation: GenerationConfig, codec: TextCodec) -> str:
    return generation.decoder_prefix or ("" if generation.prefix_ids else codec.rules.decoder_prefix)


def _spellings(word: str, codec: TextCodec) -> Sequence[tuple[int, ...]]:
    """Return the token sequences of a word: inside a text, where a space comes before, and where none does."""
    word = word.strip()
    if not word:
        raise UserError("engine.generation.bad_words: a word must not be empty")
    encoded = [codec.tokenizer.encode(text, add_special_tokens=False).ids for text in (word, " " + word)]
    return [tuple(ids) for ids in encoded if ids]
