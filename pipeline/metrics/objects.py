"""Object naming: which names of a vocabulary a caption mentions, against the objects that are in the image."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
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

    def find(self, text: str) -> Counter[str]:
        """Names in a text with the number of objects meant; the longest match wins ("fire engine", not "fire").

        A number right before a name counts that often ("three dogs" is 3), any other mention once.
        """
        words = _WORD.findall(text.lower())
        found: Counter[str] = Counter()
        start = 0
        while start < len(words):
            for length in range(min(self.longest, len(words) - start), 0, -1):
                name = self.forms.get(tuple(words[start : start + length]))
                if name is not None:
                    found[name] += _number(words[start - 1]) if start else 1
                    break
            else:
                length = 1
            start += length
        return found


def object_names(names: Iterable[str], plurals: dict[str, str] | None = None) -> ObjectNames:
    """The vocabulary of these names; plurals follow the rules of English unless given."""
    forms: dict[tuple[str, ...], str] = {}
    for name in dict.fromkeys(names):
        words = _WORD.findall(name.lower())
        if not words:
            continue
        given = (plurals or {}).get(name)
        endings = [_WORD.findall(given.lower())] if given else [[*words[:-1], form] for form in _plurals(words[-1])]
        for form in (words, *endings):
            forms.setdefault(tuple(form), name)
    for name in dict.fromkeys(names):  # a name itself is stronger than another one's plural
        forms[tuple(_WORD.findall(name.lower()))] = name
    forms.pop((), None)
    return ObjectNames(forms, max(map(len, forms), default=1))


def _plurals(noun: str) -> list[str]:
    """Every plural the noun may have; recognising one form too many does no harm."""
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


def _number(word: str) -> int:
    """What the word in front of a name says about how many there are; 1 if it is not a number."""
    return int(word) if re.fullmatch("[1-9][0-9]{0,2}", word) else _NUMBERS.get(word, 1)


@dataclass(frozen=True)
class PrecisionRecall:
    """Micro-averaged over images."""

    precision: float
    recall: float
    f1: float


def object_scores(
    texts: Sequence[str], objects: Sequence[Iterable[str]], vocabulary: ObjectNames, *, multiset: bool = False
) -> PrecisionRecall:
    """Object naming: names found in each text against the names of the objects in each image.

    Set based (the default): each name counts once per image, however often it is said. Multiset based: `objects` holds
    a name once per object and the text must say how many; meant for texts that mention every kind once.
    """
    hits = found = present = 0
    for text, names in zip(texts, objects, strict=True):
        ours, theirs = vocabulary.find(text), Counter(names)
        if not multiset:
            ours, theirs = Counter(ours.keys()), Counter(theirs.keys())
        hits += (ours & theirs).total()
        found += ours.total()
        present += theirs.total()
    precision, recall = hits / found if found else 0.0, hits / present if present else 0.0
    return PrecisionRecall(precision, recall, 2 * hits / (found + present) if found + present else 0.0)


def set_f1(texts: Sequence[str], objects: Sequence[Iterable[str]], vocabulary: ObjectNames) -> float:
    """F1 of set-based object naming."""
    return object_scores(texts, objects, vocabulary).f1
