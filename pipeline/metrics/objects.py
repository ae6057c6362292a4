"""Object naming: which names of a vocabulary a caption mentions, against the objects that are in the image."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_IRREGULAR = {
    "man": "men",  # and snowman, postwoman, ..
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "die": "dice",
}


@dataclass(frozen=True)
class ObjectNames:
    """A vocabulary of object names: singular and plural forms, as words -> the name."""

    forms: dict[tuple[str, ...], str]
    longest: int  # words of the longest form

    def find(self, text: str) -> set[str]:
        """Return the names in a text; the longest match wins ("fire engine", not "fire")."""
        words = _WORD.findall(text.lower())
        found = set()
        start = 0
        while start < len(words):
            for length in range(min(self.longest, len(words) - start), 0, -1):
                name = self.forms.get(tuple(words[start : start + length]))
                if name is not None:
                    found.add(name)
                    break
            else:
                length = 1
            start += length
        return found


def object_names(names: Iterable[str]) -> ObjectNames:
    """Return the vocabulary of these names; plurals follow the rules of English."""
    forms: dict[tuple[str, ...], str] = {}
    for name in dict.fromkeys(names):
        words = _WORD.findall(name.lower())
        if not words:
            continue
        for form in (words, *([*words[:-1], plural] for plural in _plurals(words[-1]))):
            forms.setdefault(tuple(form), name)
    for name in dict.fromkeys(names):  # a name itself is stronger than another one's plural
        forms[tuple(_WORD.findall(name.lower()))] = name
    forms.pop((), None)
    return ObjectNames(forms, max(map(len, forms), default=1))


def _plurals(noun: str) -> list[str]:
    """Return every plural the noun may have; recognising one form too many does no harm."""
    plurals = [noun + "s", noun + "es"]
    if noun.endswith("y"):
        plurals.append(noun[:-1] + "ies")
    if noun.endswith("fe"):
        plurals.append(noun[:-2] + "ves")
    if noun.endswith("f"):
        plurals.append(noun[:-1] + "ves")
    if noun.endswith("us"):
        plurals.append(noun[:-2] + "i")
    plurals += [_IRREGULAR[noun]] if noun in _IRREGULAR else []
    return [*plurals, noun.removesuffix("man") + "men"] if noun.endswith("man") else plurals


@dataclass(frozen=True)
class PrecisionRecall:
    """Micro-averaged over images."""

    precision: float
    recall: float
    f1: float


def object_scores(texts: Sequence[str], objects: Sequence[Iterable[str]], vocabulary: ObjectNames) -> PrecisionRecall:
    """Score the names found in each text against the objects in each image; a name counts once per image."""
    hits = found = present = 0
    for text, names in zip(texts, objects, strict=True):
        ours, theirs = vocabulary.find(text), set(names)
        hits += len(ours & theirs)
        found += len(ours)
        present += len(theirs)
    precision, recall = hits / found if found else 0.0, hits / present if present else 0.0
    return PrecisionRecall(precision, recall, 2 * hits / (found + present) if found + present else 0.0)


def set_f1(texts: Sequence[str], objects: Sequence[Iterable[str]], vocabulary: ObjectNames) -> float:
    """Return the F1 of object naming alone."""
    return object_scores(texts, objects, vocabulary).f1
