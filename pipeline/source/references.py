"""What is right for a row, as the fields of its sample say it: one rule for reports, training and evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.text import storable_value


class Kind(str, Enum):
    CAPTION = "caption"
    ANSWER = "answer"


@dataclass(frozen=True)
class Reference:
    """What is right for one row."""

    kind: Kind
    texts: tuple[str, ...]
    object_names: tuple[str, ...] = ()  # of what is in the image; scored where given


_KINDS = {  # of the fields that are tried, in this order
    "qa": Kind.ANSWER,
    "answers": Kind.ANSWER,
    "answer": Kind.ANSWER,
    "captions": Kind.CAPTION,
    "caption": Kind.CAPTION,
    "txt": Kind.CAPTION,
}
_OBJECTS = "objects"
reference_fields: tuple[str, ...] = (*_KINDS, _OBJECTS)  # that `reference_of` may read where none is named


def reference_of(fields: Mapping[str, Any], prompt: str | None, field: str | None = None) -> Reference | None:
    """Return what a sample's fields say is right for a prompt; None if nothing.

    `field` names one; otherwise `qa`, `answers`, `answer`, `captions`, `caption` and `txt` are tried. A value is a
    text, a list of texts, or a list of objects with the text under `text`, `caption` or `answer`; if those also have a
    `prompt` or `question`, the ones of this prompt count, and for captions all if there is none.
    """
    for name in (field,) if field else _KINDS:
        kind = _KINDS.get(name, Kind.CAPTION)
        texts = _texts(fields.get(name), prompt, fall_back=kind is Kind.CAPTION)
        if texts:
            return Reference(kind, texts, _object_names(fields) if kind is Kind.CAPTION else ())
    return None


def _texts(value: Any, prompt: str | None, *, fall_back: bool) -> tuple[str, ...]:
    items = storable_value(value if isinstance(value, list) else [value])  # as the prompts of the tables are
    plain = tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
    entries: list[tuple[str | None, str]] = []
    for item in items:
        if isinstance(item, Mapping):
            text = next((item[key] for key in ("text", "caption", "answer") if isinstance(item.get(key), str)), None)
            if text is not None:
                entries.append((item.get("prompt") or item.get("question"), text))
    matching = tuple(text for asked, text in entries if asked is None or asked == prompt)
    return plain + (matching or (tuple(text for _, text in entries) if fall_back else ()))


def _object_names(fields: Mapping[str, Any]) -> tuple[str, ...]:
    objects = fields.get(_OBJECTS)
    names = [item.get("name") for item in objects if isinstance(item, Mapping)] if isinstance(objects, list) else []
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))
