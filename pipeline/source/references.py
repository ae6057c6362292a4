"""What is right for a sample, as its fields say it: one rule for reports, training and evaluation.

Fields are understood as the data sets have them that people come with, in their original files and as they are on the
Hugging Face hub (the shapes are in tests/pipeline/source/test_references.py):

    captions   captions, sentences, sentences_raw, annotations_captions, reference_strs, caption, caption_str, txt, text
               (COCO, Karpathy's splits, nocaps, TextCaps, Flickr30k, image folders)
    answers    qa, qas, answers, direct_answers, answer, multiple_choice_answer, label
               (VQA v2, OK-VQA, A-OKVQA, TextVQA, VizWiz, GQA, Visual Genome, DocVQA, InfographicVQA, ChartQA)

A value is a text; a list of values; an object with the text under one of `_TEXT_KEYS`, perhaps beside the question (or
prompt) that it answers; an object of lists, one value in each; or any of these as JSON in a text.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.source.readers.tables.json_values import BadJson, parse_json
from pipeline.text import storable


class Kind(str, Enum):
    CAPTION = "caption"
    ANSWER = "answer"


@dataclass(frozen=True)
class Reference:
    """What is right for one row: every text that somebody gave, in order, as often as it was given."""

    kind: Kind
    texts: tuple[str, ...]
    object_names: tuple[str, ...] = ()  # of what is in the image; scored where given


AskedReference = tuple[str | None, Reference]  # the question or prompt that it answers; None: whatever is asked

_ANSWERS = ("qa", "qas", "answers", "direct_answers", "answer", "multiple_choice_answer", "label")
_CAPTIONS = (
    "captions", "sentences", "sentences_raw", "annotations_captions", "reference_strs", "caption", "caption_str", "txt",
    "text",
)  # fmt: skip
_QUESTIONS = ("question", "query", "prompt")
_WITH_QUESTION, _WITHOUT_QUESTION = "label", "text"  # otherwise a class, or words that were found in the image
_TEXT_KEYS = ("text", "caption", "answers", "answer", "raw", "en")  # `en`: a text in several languages
_CHOICES = ("choices", "options")  # a number beside them is the place of one
_OBJECTS = "objects"
reference_fields: tuple[str, ...] = (*_ANSWERS, *_CAPTIONS, *_QUESTIONS, *_CHOICES, _OBJECTS)  # that may be read
_CAPTION_WANTED = re.compile(r"\b(captions?|describe|description)\b[^?]*$", re.IGNORECASE)


def reference_of(fields: Mapping[str, Any], prompt: str | None, field: str | None = None) -> Reference | None:
    """Return what a sample's fields say is right for a prompt, as the tables have it; None if nothing.

    `field` names one, by a dotted path where it lies in others (`json.captions`); it is taken to answer the prompt
    whatever the sample's own `question` is.
    """
    own = _question_in(fields)
    found = references_in(fields, field)
    return reference_for([(None if field and asked == own else asked, known) for asked, known in found], prompt)


def reference_for(references: Sequence[AskedReference], prompt: str | None) -> Reference | None:
    """Return what of these is right for a prompt: the answers to the question in it, otherwise captions.

    An answer counts if its question is the longest that the prompt contains, or if it has none; captions with prompts
    of their own count too, all of them, if none of these is asked. Without a prompt, the only question there is counts.
    """
    for kind in (Kind.ANSWER, Kind.CAPTION):
        own = [(asked, reference) for asked, reference in references if reference.kind is kind]
        questions = {asked for asked, _ in own if asked is not None}
        asked_now = questions if prompt is None else {asked for asked in questions if asked in prompt}
        best = max(asked_now, key=len, default=None) if prompt is not None or len(questions) == 1 else None
        right = [reference for asked, reference in own if asked is None or asked == best]
        if not right and kind is Kind.CAPTION:
            right = [reference for _, reference in own]
        if right:
            return Reference(kind, tuple(text for one in right for text in one.texts), right[0].object_names)
    return None


def references_in(fields: Mapping[str, Any], field: str | None = None) -> list[AskedReference]:
    """Return all that a sample's fields say: the answers to its questions, each once, then its captions.

    Of the fields that are tried the first with an answer counts, and the first with a caption. Answers are to the
    sample's own `question`, or to those that stand beside them. `field` as for `reference_of`. Texts are as
    `pipeline.text.storable` gives them, without white space around them.
    """
    asked = _question_in(fields)
    is_asked = any(_as_question(fields.get(name)) for name in _QUESTIONS if name != "prompt")
    caption_wanted = asked is not None and _CAPTION_WANTED.search(asked) is not None
    names_of_objects = _object_names(fields)
    found: dict[tuple[Kind, str | None], list[str]] = {}
    for name in (field,) if field else (*_ANSWERS, *_CAPTIONS):
        if not field and name == (_WITHOUT_QUESTION if is_asked else _WITH_QUESTION):
            continue
        path = [name] if name in fields else name.split(".")
        if fields.get(path[0]) is None:
            continue
        entries = list(_texts_at(fields, path, None, ""))
        kind = _kind_of(path, entries[0].key if entries else "")
        if kind is Kind.ANSWER and caption_wanted and path[0] not in ("qa", "qas"):
            kind = Kind.CAPTION  # as the captions of COCO and RefCOCO that are told as questions and answers
        if not any(known is kind for known, _ in found):
            for entry in entries:
                question = None if kind is Kind.CAPTION and entry.question == asked else entry.question
                found.setdefault((kind, question), []).append(entry.text)
    found = dict(sorted(found.items(), key=lambda item: item[0][0] is Kind.CAPTION))
    return [
        (question, Reference(kind, tuple(texts), names_of_objects if kind is Kind.CAPTION else ()))
        for (kind, question), texts in found.items()
    ]


@dataclass(frozen=True, slots=True)
class _Entry:
    question: str | None
    text: str
    key: str  # it stands under


def _texts_at(value: Any, path: Sequence[str], question: str | None, key: str) -> Iterator[_Entry]:
    """Yield the texts of a value, or those at a path within it."""
    if isinstance(value, str):
        parsed = _parsed(value, path, key)
        inner = [] if parsed is None else list(_texts_at(parsed, path, question, key))
        text = storable(value).strip()
        if not inner and not path and text:
            inner = [_Entry(question, text, key)]
        yield from inner
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_at(item, path, question, key)
    elif isinstance(value, Mapping):
        name = path[0] if path else next((n for n in _TEXT_KEYS if value.get(n) is not None), None)
        if name is None:
            return
        inner_value, rest = value.get(name), path[1:]
        question = _question_in(value) or question
        if isinstance(inner_value, list):
            columns = [value.get(n) for n in _QUESTIONS]
            column = next((c for c in columns if isinstance(c, list) and len(c) == len(inner_value)), None)
            questions = [question] * len(inner_value) if column is None else [_as_question(one) for one in column]
            for item, its_question in zip(inner_value, questions, strict=True):
                yield from _texts_at(_number_as_text(item, name, its_question, value), rest, its_question, name)
        else:
            yield from _texts_at(_number_as_text(inner_value, name, question, value), rest, question, name)


def _parsed(text: str, path: Sequence[str], key: str) -> Any:
    """Return what JSON in a text says; None for other texts, and for objects where no reference is known to be one:
    there they are what a model is to write."""
    known = bool(path) or key in _ANSWERS or key in _CAPTIONS
    if not text.lstrip().startswith(("[", "{") if known else "["):
        return None
    try:
        value = parse_json(text.encode("utf-8", "surrogatepass"))
    except BadJson:
        return None
    return value if isinstance(value, list | dict) else None


def _number_as_text(value: Any, name: str, question: str | None, beside: Mapping[str, Any]) -> Any:
    """Return the text of a number that answers a question; other values as they are."""
    if name not in ("answer", "answers") or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not math.isfinite(value):  # what tables have for no answer
        return None
    if question is None or any(beside.get(choices) is not None for choices in _CHOICES):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)


def _question_in(value: Mapping[str, Any]) -> str | None:
    return next(filter(None, (_as_question(value.get(name)) for name in _QUESTIONS)), None)


def _as_question(value: Any) -> str | None:
    """Return a question as it is in prompts; English of one in several languages; None for what is none."""
    text = value.get("en") if isinstance(value, Mapping) else value
    return storable(text).strip() or None if isinstance(text, str) else None


def _kind_of(path: Sequence[str], key: str) -> Kind:
    """Return what the last known name of a path says it is; otherwise what the key under which the text stands says."""
    for name in (*reversed(path), key):
        if name in _ANSWERS or "answer" in name.lower():
            return Kind.ANSWER
        if name in _CAPTIONS and name != "text":  # which captions and answers both are called
            return Kind.CAPTION
    return Kind.CAPTION


def _object_names(fields: Mapping[str, Any]) -> tuple[str, ...]:
    objects = fields.get(_OBJECTS)
    names = [item.get("name") for item in objects if isinstance(item, Mapping)] if isinstance(objects, list) else []
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))
