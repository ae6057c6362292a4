"""Prompts of a sample: a template filled from its fields, or several from a list among them."""

import re
from collections.abc import Mapping
from typing import Any

from conf.schema import PromptConfig
from pipeline.words import word_lines


def make_prompts(config: PromptConfig, fields: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(prompt, fields of its own) for each prompt of a sample; LookupError says which field is missing."""
    words = "" if config.words_field is None else word_lines(fields, config.words_field)
    if config.list_field is None:
        return [(_fill(config.template, fields) + words, {})]
    items = fields.get(config.list_field)
    if not isinstance(items, list) or not items:
        raise LookupError(f"field {config.list_field!r} is not a list with at least one prompt")
    prompts: list[tuple[str, Mapping[str, Any]]] = []
    for item in items:
        own = item if isinstance(item, Mapping) else {config.list_field: item}
        template = config.template if "{" in config.template else f"{{{config.list_field}}}"
        prompts.append((_fill(template, {**fields, **own}) + words, own))
    return prompts


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


def _fill(template: str, fields: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if fields.get(name) is None:
            raise LookupError(f"the prompt needs field {name!r}, which the sample does not have")
        return str(fields[name])

    return re.sub(r"\{([^{}]+)\}", value, template)
