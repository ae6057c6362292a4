"""Donut's tags -> JSON: `<s_menu><s_nm>Tea</s_nm></s_menu>` is {"menu": {"nm": "Tea"}}; `<sep/>` is between entries.

Values, oddities included, are those of the library's `DonutProcessor.token2json`.
"""

import re
from collections.abc import Collection
from typing import Any

_OPENING = re.compile(r"<s_([^>]*)>", re.IGNORECASE)
_NEXT = "<sep/>"


def fields_of(text: str, categories: Collection[str] = ()) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the content of tags by name: one object, or a list where entries follow one another.

    A text without a tag that is closed is {"text_sequence": text}. `categories` are the tokenizer's added tokens: one
    such as `<paid/>` that is a whole value becomes its name.
    """
    entries, entry, rest = _entries(text, categories)
    if entries:
        return [*entries, *([entry] if entry else [])]
    return entry or {"text_sequence": rest}


def _entries(text: str, categories: Collection[str]) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Return the entries that a `<sep/>` ends, the last one, and what is left of the text after it."""
    done: list[dict[str, Any]] = []
    entry: dict[str, Any] = {}
    while (opening := _OPENING.search(text)) is not None:
        name = opening.group(1)
        closing = re.compile(re.escape(f"</s_{name}>"), re.IGNORECASE)
        first = closing.search(text)
        if first is None:
            text = text.replace(opening.group(), "")
            continue
        if (own := closing.search(text, opening.end())) is not None:
            content = text[opening.end() : own.start()].strip()
            if "<s_" in content and "</s_" in content:
                inner, last, _ = _entries(content, categories)
                if values := [*inner, *([last] if last else [])]:
                    entry[name] = values[0] if len(values) == 1 else values
            else:
                leaves = [_leaf(part.strip(), categories) for part in content.split(_NEXT)]
                entry[name] = leaves[0] if len(leaves) == 1 else leaves
        text = text[first.end() :].strip()
        if text.startswith(_NEXT):
            done.append(entry)
            entry, text = {}, text.removeprefix(_NEXT)
    return done, entry, text


def _leaf(text: str, categories: Collection[str]) -> str:
    return text[1:-2] if text in categories and text.startswith("<") and text.endswith("/>") else text
