"""Which tokens stand around a prompt, as the tokenizer of the source puts them there."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.family import Family
from actors.model.interop.model_directory import Source
from actors.model.interop.special_tokens import named_tokens
from actors.model.interop.tokenizer_files import tokenizer_settings
from conf.errors import UserError
from conf.text_rules import TextRules

_PROBE = "a"
_USUAL, _LONGEST = 512, 1024  # tokens of a prompt where the source names no limit, and where it names a high one
_NOT_DECLARED = 1_000_000  # the library writes 1e30 where a tokenizer has no limit
_DEFAULT_LANGUAGE = "en_XX"  # of the library's mBART tokenizers
Frame = tuple[tuple[int, ...], tuple[int, ...]]  # before and after a prompt


def text_rules(
    source: Source, family: Family, hf: Any, tokenizer: Tokenizer | None, vocab_size: int
) -> tuple[TextRules, list[str]]:
    """Return the rules of the family with the tokenizer's frame, and what the user should know of it.

    A tokenizer that adds nothing says nothing: its class may add at run time what tokenizer.json lacks (T5).
    """
    rules, notes = family.text_rules(hf), list[str]()
    if tokenizer is None or rules.prompt != "tokens":
        return rules, notes
    if family.frames_prompts:
        return _framed_by_processor(rules, named_tokens(source, tokenizer)), notes
    language = _language(source, tokenizer)
    if language:
        frame: Frame | None = _language_frame(source, tokenizer, language)
    else:
        frame = _asked_frame(source, tokenizer) or _template_frame(tokenizer)
    if frame is None or any(token_id >= vocab_size for part in frame for token_id in part):
        return rules, notes
    if language:
        notes.append(f"prompts are in {language}, as src_lang of tokenizer_config.json says")
        if _is_mbart50(source) and _forced_bos(source) is None:
            target = tokenizer_settings(source.path).get("tgt_lang") or "the code of a language"
            notes.append(
                "the source forces no language of outputs (forced_bos_token_id); give "
                f"engine.generation.decoder_prefix={target}"
            )
    return rules.model_copy(update={"prefix_ids": frame[0], "suffix_ids": frame[1]}), notes


def _framed_by_processor(rules: TextRules, named: Mapping[str, int]) -> TextRules:
    """Return the rules with the tokenizer's own start and end tokens, which a fine-tune's configuration may miss."""
    start, end = named.get("bos_token_id"), named.get("eos_token_id")
    return rules.model_copy(
        update={
            "prefix_ids": rules.prefix_ids if start is None else (start,),
            "suffix_ids": rules.suffix_ids if end is None else (end,),
        }
    )


def prompt_room(source: Source, family: Family, hf: Any, image_size: int, asked: int | None) -> int:
    """Return how many tokens a prompt may have; UserError for a wish that is more than the model's positions leave.

    Relative positions leave any number: then what the model was trained with says it, as far as the source does.
    """
    most = family.most_prompt_tokens(hf, image_size)
    if asked is not None:
        if most is not None and asked > most:
            raise UserError(f"--max-prompt-tokens={asked} is more than the {most} that the model has positions for")
        return asked
    declared = (tokenizer_settings(source.path).get("model_max_length"), source.config.get("n_positions"))
    known = [int(number) for number in declared if isinstance(number, int | float) and 0 < number < _NOT_DECLARED]
    limits = known if most is None else [*known, most]
    return min([_LONGEST, *limits] if limits else [_USUAL])


def _asked_frame(source: Source, tokenizer: Tokenizer) -> Frame | None:
    """Return what a Gemma tokenizer is asked to add in place of what tokenizer.json says; None: nothing is asked."""
    settings = tokenizer_settings(source.path)
    asked = {name: settings.get(f"add_{name}_token") for name in ("bos", "eos")}
    if not str(settings.get("tokenizer_class", "")).startswith("Gemma") or set(asked.values()) == {None}:
        return None
    named = named_tokens(source, tokenizer)
    ids = {name: named.get(f"{name}_token_id") for name in asked}
    bos, eos = (() if not asked[name] or ids[name] is None else (ids[name],) for name in ("bos", "eos"))
    return bos, eos


def _template_frame(tokenizer: Tokenizer) -> Frame | None:
    if tokenizer.num_special_tokens_to_add(False) == 0:
        return None
    encoding = tokenizer.encode(_PROBE)
    added = encoding.special_tokens_mask
    own = [place for place, special in enumerate(added) if not special]
    if not own:
        return None
    return tuple(encoding.ids[: own[0]]), tuple(encoding.ids[own[-1] + 1 :])


def _language(source: Source, tokenizer: Tokenizer) -> str | None:
    """Return the language code of an mBART tokenizer's prompts; None for other tokenizers."""
    settings = tokenizer_settings(source.path)
    named = str(settings.get("tokenizer_class", ""))
    if not named.startswith("MBart") and not (named == "" and source.config.get("model_type") == "mbart"):
        return None
    language = str(settings.get("src_lang") or _DEFAULT_LANGUAGE)
    return None if tokenizer.token_to_id(language) is None else language


def _language_frame(source: Source, tokenizer: Tokenizer, language: str) -> Frame:
    """mBART-50 puts the language code first, mBART after the end token."""
    code, end = tokenizer.token_to_id(language), named_tokens(source, tokenizer).get("eos_token_id")
    ends = () if end is None else (end,)
    return ((code,), ends) if _is_mbart50(source) else ((), (*ends, code))


def _is_mbart50(source: Source) -> bool:
    return str(tokenizer_settings(source.path).get("tokenizer_class", "")).startswith("MBart50")


def _forced_bos(source: Source) -> Any:
    return (source.generation or source.config).get("forced_bos_token_id")
