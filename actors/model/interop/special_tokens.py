"""Which ids start, end and pad an output, and how outputs are to be generated, from sources that may disagree.

Several published fine-tunes carry ids of another tokenizer in generation_config.json. Ids are believed in this order:
the tokenizer's own special tokens, config.json, generation_config.json, what the model's class says by itself. The
tokenizer names no token that starts an output, and a decoder's part of config.json says what it was trained as, not
what starts it in the whole: that comes last.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.family import generation_of
from actors.model.interop.model_directory import Source
from actors.model.interop.tokenizer_files import tokenizer_settings
from conf.errors import UserError
from conf.json_file import read_object
from conf.model import GenerationDefaults

# Settings of the library that change greedy outputs and are not followed: value that changes nothing -> what a job can
# set in its place.
_NOT_FOLLOWED: dict[str, tuple[Any, str]] = {
    "max_length": (20, "engine.generation.max_new_tokens"),
    "max_new_tokens": (None, "engine.generation.max_new_tokens"),
    "forced_decoder_ids": (None, ""),
    "begin_suppress_tokens": (None, ""),
    "sequence_bias": (None, ""),
    "exponential_decay_length_penalty": (None, ""),
    "encoder_repetition_penalty": (1.0, ""),
    "encoder_no_repeat_ngram_size": (0, ""),
    "stop_strings": (None, ""),
    "guidance_scale": (1.0, ""),
    "penalty_alpha": (None, ""),
    "watermarking_config": (None, ""),
}
_LONGEST_VALUE = 60  # characters of a value in a sentence


@dataclass(frozen=True)
class SpecialTokens:
    start_id: int
    eos_id: int
    pad_id: int
    generation: GenerationDefaults
    believed: tuple[str, ...]  # what was not as it should be, and what it was taken for
    differences: tuple[str, ...]  # what cannot be followed


def special_tokens(source: Source, hf: Any, text: Any, tokenizer: Tokenizer | None, vocab_size: int) -> SpecialTokens:
    """Raise UserError for an id that is missing or outside the vocabulary."""
    notes, differences = list[str](), list[str]()
    asked = _generation(source)
    named = named_tokens(source, tokenizer)

    def believe(name: str, votes: list[tuple[str, int | None]]) -> int | None:
        known = [(who, value) for who, value in votes if value is not None]
        if not known:
            return None
        who, value = known[0]
        for other, different in known[1:]:
            if different != value:
                notes.append(f"{name} is {different} in {other} and {value} in {who}; {value} is used")
        return value

    def named_token(name: str) -> int | None:
        return believe(name, [
            ("the tokenizer", named.get(name)),
            ("config.json", _first(getattr(text, name, None))),
            ("config.json" if source.generation is None else "generation_config.json", _first(asked.get(name))),
        ])  # fmt: skip

    def configured(name: str) -> int | None:
        """An id that only configurations name; a value nobody wrote down is not an opinion."""
        own = [_first(part.get(name)) for part in (source.config, source.config.get("text_config") or {})]
        written = (source.generation or {}).get(name)
        value = believe(name, [("config.json", next((v for v in own if v is not None), None)),
                               ("generation_config.json", _first(written))])  # fmt: skip
        return _first(asked.get(name)) if value is None else value

    eos, pad = named_token("eos_token_id"), named_token("pad_token_id")
    start = configured("decoder_start_token_id")
    for holder in (hf, text):
        start = _first(getattr(holder, "decoder_start_token_id", None)) if start is None else start
    if start is None:
        start = named_token("bos_token_id")
    if eos is None or start is None:
        raise UserError(f"the source names no {'eos_token_id' if eos is None else 'decoder_start_token_id'}")
    pad = eos if pad is None else pad
    forced_bos = configured("forced_bos_token_id")
    ids = {"eos_token_id": eos, "pad_token_id": pad, "decoder_start_token_id": start, "forced_bos_token_id": forced_bos}
    for name, value in ids.items():
        if value is None:
            continue
        if not 0 <= value < vocab_size:
            raise UserError(f"{name}={value} is outside the vocabulary of {vocab_size}")
        if tokenizer is not None and tokenizer.id_to_token(value) is None:
            notes.append(f"{name}={value} is no token of the tokenizer")
    if forced_bos == eos:
        notes.append(f"forced_bos_token_id={eos} is the end token, which would end every output, and is left out")
        forced_bos = None
    defaults = _defaults(asked, eos, forced_bos, vocab_size, differences)
    return SpecialTokens(start, eos, pad, defaults, tuple(notes), tuple(differences))


def _defaults(
    asked: dict[str, Any], eos: int, forced_bos: int | None, vocab_size: int, differences: list[str]
) -> GenerationDefaults:
    forced_eos = _first(asked.get("forced_eos_token_id"))
    if forced_eos is not None and forced_eos != eos:
        differences.append(f"forced_eos_token_id={forced_eos} is not the end token {eos} and is left out")
    if (asked.get("num_beams") or 1) > 1:
        beams, penalty = asked["num_beams"], asked.get("length_penalty")
        longer = "" if penalty in (None, 1.0) else f" and engine.generation.length_penalty={penalty}"
        differences.append(
            f"the source asks for {beams} beams; decoding is greedy unless a job sets "
            f"engine.generation.num_beams={beams}{longer} with engine.schedule=full"
        )
    if asked.get("do_sample"):
        differences.append("the source asks for sampling; decoding here is greedy")
    for name, (neutral, here) in _NOT_FOLLOWED.items():
        value = asked.get(name)
        if value not in (None, neutral, [], {}):
            instead = f"; a job can set {here}" if here else ""
            differences.append(f"the source's {name}={_short(value)} is not followed{instead}")
    ends = asked["eos_token_id"] if isinstance(asked.get("eos_token_id"), list) else []
    banned = [*map(tuple, asked.get("bad_words_ids") or ()), *((i,) for i in asked.get("suppress_tokens") or ())]
    sayable = range(vocab_size)  # tokens beyond it are never said anyway
    return GenerationDefaults(
        forced_bos_id=forced_bos,
        forced_eos=forced_eos == eos,
        no_repeat_ngram=asked.get("no_repeat_ngram_size") or 0,
        repetition_penalty=asked.get("repetition_penalty") or 1.0,
        # min_length counts the start token
        min_new_tokens=asked.get("min_new_tokens") or max(0, (asked.get("min_length") or 0) - 1),
        banned_ids=tuple(word for word in banned if all(token_id in sayable for token_id in word)),
        other_end_ids=tuple(sorted(set(ends) & set(sayable) - {eos})),
    )


def _generation(source: Source) -> dict[str, Any]:
    """generation_config.json; older checkpoints keep the same settings in config.json, or in its decoder's part."""
    if source.generation is not None:
        return source.generation
    return generation_of(source.config)


def named_tokens(source: Source, tokenizer: Tokenizer | None) -> dict[str, int]:
    """Return the ids that the settings beside the tokenizer give the start, end and padding tokens."""
    if tokenizer is None:
        return {}
    found: dict[str, int] = {}
    settings = {**(read_object(source.path / "special_tokens_map.json") or {}), **tokenizer_settings(source.path)}
    for name in ("bos", "eos", "pad"):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        token_id = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if token_id is not None:
            found[f"{name}_token_id"] = token_id
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _first(value: Any) -> int | None:
    return (value[0] if value else None) if isinstance(value, list) else value
