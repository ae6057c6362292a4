"""Prompts of a sample: a template filled from its fields, or several from a list among them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import JobConfig
from conf.source import PromptConfig, SourceConfig
from conf.templates import field_place, parse_template
from conf.text_rules import longest_prompt
from pipeline.source.words_field import word_lines

_WORDS_FACTOR = 20  # words found in the image may be longer: a model leaves out what does not fit
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What is not built, because no model would read it: a longer prompt, more prompts of one image."""

    characters: int = longest_prompt(0)
    prompts: int = SourceConfig.model_fields["max_prompts"].default

    @classmethod
    def of(cls, config: JobConfig, max_prompt_tokens: int) -> "PromptLimits":
        """For a model that reads this many tokens of a prompt."""
        return cls(longest_prompt(max_prompt_tokens), config.source.max_prompts)


USUAL_LIMITS = PromptLimits()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing to ask, or why it cannot be asked: then `text` is only what tells it from others."""

    text: str
    own: Mapping[str, Any] = field(default_factory=dict)  # fields that only this prompt has
    error_type: str | None = None
    message: str = ""


class NoPrompts(LookupError):
    """A sample has no prompts at all; `error_type` is a short fixed word."""

    def __init__(self, message: str, error_type: str = "no_prompt") -> None:
        super().__init__(message)
        self.error_type = error_type


def make_prompts(config: PromptConfig, fields: Mapping[str, Any], limits: PromptLimits = USUAL_LIMITS) -> list[Prompt]:
    """Return the prompts of a sample, in order; NoPrompts says why there are none."""
    try:
        words = "" if config.words_field is None else word_lines(fields, config.words_field)
    except LookupError as error:
        raise NoPrompts(str(error.args[0])) from None
    name = config.list_field
    if name is None:
        return [fill(config.template, fields, limits, words=words)]
    items = fields.get(name)
    if not isinstance(items, list) or not items:
        raise NoPrompts(f"field {name!r} is not a list with at least one prompt")
    check_number(len(items), limits)
    template = item_template(config)
    return [
        item if isinstance(item, Prompt) else prompt_of_item(template, item, name, name, fields, limits, words)
        for item in items
    ]


def item_template(config: PromptConfig) -> str:
    """Return what is filled for each item of list_field: the item itself where the template names no field."""
    assert config.list_field is not None
    return config.template if parse_template(config.template).names else field_place(config.list_field)


def prompt_of_item(
    template: str,
    item: Any,
    list_field: str,
    called: str,
    fields: Mapping[str, Any],
    limits: PromptLimits,
    words: str = "",
) -> Prompt:
    """Return the prompt of one item of a list: an object has fields of its own, anything else is one, `called` so."""
    if item is None:
        return Prompt(template, {}, "no_prompt", f"an item of field {list_field!r} is null")
    own = item if isinstance(item, Mapping) else {called: item}
    return fill(template, {**fields, **own}, limits, own, words)


def fill(
    template: str,
    fields: Mapping[str, Any],
    limits: PromptLimits,
    own: Mapping[str, Any] | None = None,
    words: str = "",
) -> Prompt:
    """Return the template with the fields in it. What is too long is not put together."""
    parsed, own = parse_template(template), own or {}
    values: dict[str, str] = {}
    for name in parsed.names:
        value = fields.get(name)
        if value is None:
            why = "is null" if name in fields else "the sample does not have"
            return Prompt(template, own, "no_prompt", f"the prompt needs field {name!r}, which {why}")
        if (kind := kind_of(value)) is not None:
            return Prompt(template, own, "no_prompt", f"the prompt needs a text in field {name!r}, which holds {kind}")
        values[name] = str(value)
    length = parsed.num_own_characters + sum(len(values[name]) * times for name, times in parsed.uses.items())
    if length > limits.characters or length + len(words) > _WORDS_FACTOR * limits.characters:
        return _too_long(template, values, words, length + len(words), limits, own)
    return Prompt(parsed.fill(values) + words, own)


def kind_of(value: Any) -> str | None:
    """Return what a value is that cannot stand in a prompt; None for texts, numbers and the like."""
    if isinstance(value, Mapping):
        keys = ", ".join(str(key) for key in list(value)[:5])
        return f"an object ({keys})" if keys else "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return "bytes" if isinstance(value, bytes | bytearray | memoryview) else None


def check_number(number: int, limits: PromptLimits) -> None:
    if number > limits.prompts:
        raise NoPrompts(f"{number:,} prompts are more than source.max_prompts={limits.prompts:,}", "too_many_prompts")


def limit_of(config: PromptConfig, fields: Mapping[str, Any]) -> int | None:
    """Most tokens of an output, where its sample says so; ValueError where that is no number of tokens."""
    given = None if config.limit_field is None else fields.get(config.limit_field)
    if given is None or given == "":
        return None
    try:
        limit, whole = int(given), float(given).is_integer() and not isinstance(given, bool)
    except (TypeError, ValueError, OverflowError):
        limit, whole = 0, False
    if not whole or not 1 <= limit < 2**31:
        raise ValueError(f"field {config.limit_field!r} must be a number of tokens, at least 1, got {given!r}")
    return limit


def _too_long(
    template: str, values: Mapping[str, str], words: str, length: int, limits: PromptLimits, own: Mapping[str, Any]
) -> Prompt:
    """Return its beginning, and a hash of what it would have been made of, so that it is known again."""
    digest = hashlib.sha256()
    for part in (template, *values.values(), words):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    start = parse_template(template).fill({name: value[:_MOST_SHOWN] for name, value in values.items()})
    text = f"{start[:_MOST_SHOWN]}... ({length:,} characters, sha256 {digest.hexdigest()[:16]})"
    message = f"the prompt has {length:,} characters, more than the {limits.characters:,} that are tokenised"
    return Prompt(text, own, "bad_prompt", message)


def usable(prompts: Sequence[Prompt]) -> bool:
    """Return whether any of them can be asked."""
    return any(prompt.error_type is None for prompt in prompts)
