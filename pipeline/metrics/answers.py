"""Scores of one answer against its references; take the mean over a corpus yourself."""

import re
from collections.abc import Iterable, Sequence


def exact_match(prediction: str, references: Sequence[str]) -> bool:
    """Return whether the prediction is one of the references, apart from case and spacing."""
    return _plain(prediction) in {_plain(reference) for reference in references}


def anls(prediction: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one answer: the best reference's 1 - distance / length.

    ST-VQA (Biten et al. 2019, eq. 1) and DocVQA (Mathew et al. 2021): case does not matter, and a distance of
    `threshold` or more scores 0 (implementations differ at exactly 0.5; this is the papers' rule, and what the `anls`
    package does).
    """
    ours, best = _plain(prediction), 0.0
    for reference in map(_plain, references):
        longest = max(len(ours), len(reference))
        distance = _edit_distance(ours, reference) / longest if longest else 0.0
        if distance < threshold:
            best = max(best, 1 - distance)
    return best


def relaxed_accuracy(prediction: str, references: Sequence[str], tolerance: float = 0.05) -> bool:
    """Exact match, or for numbers (a % counts as hundredths) at most `tolerance` relative error (ChartQA's rule)."""
    if exact_match(prediction, references):
        return True
    ours = _number(prediction)
    theirs = [_number(reference) for reference in references]
    return ours is not None and any(t is not None and t != 0 and abs(ours - t) <= tolerance * abs(t) for t in theirs)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _edit_distance(a: str, b: str) -> int:
    if len(a) > len(b):
        a, b = b, a
    row = list(range(len(a) + 1))
    for i, char in enumerate(b, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(a, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (char != other))
    return row[-1]


# VQA accuracy, with the normalisation that visualqa.org/evaluation describes
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've she's should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
    you're you've
""".split()  # noqa: SIM905 - a hundred quoted words are harder to read


def _misspelt(word: str) -> Iterable[str]:
    """Yield the word without some of its apostrophes, in every combination."""
    pieces = word.split("'")
    for mask in range(1, 1 << (len(pieces) - 1)):
        marks = ["" if mask >> i & 1 else "'" for i in range(len(pieces) - 1)]
        yield pieces[0] + "".join(mark + piece for mark, piece in zip(marks, pieces[1:], strict=True))


_CONTRACTIONS = {wrong: right for right in _CONTRACTED for wrong in _misspelt(right)}


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """min(matches / 3, 1) against every choice of all references but one, averaged (ten human answers are usual).

    VQA: Visual Question Answering (Antol et al. 2015), and the evaluation of VQA v2, OK-VQA, TextVQA and VizWiz. Both
    sides are normalised, as the published description has it: lower case, number words as digits, no articles, no
    punctuation but apostrophes, colons and decimal points, contractions with their apostrophes. The published program
    (of 2021) compares texts as they are where all references are the same; there, "Yes." would be wrong.
    With one reference nothing can be left out: that is the match itself.
    """
    ours = _normalised(prediction)
    equal = [_normalised(reference) == ours for reference in references]
    if len(equal) == 1:
        return float(equal[0])
    return sum(min(1.0, (sum(equal) - mine) / 3) for mine in equal) / len(equal)


def _normalised(text: str) -> str:
    return _words_normalised(_punctuation_normalised(text.replace("\n", " ").replace("\t", " ").strip()))


def _punctuation_normalised(text: str) -> str:
    result = text
    has_digit_comma = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        alone = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if alone or has_digit_comma else " ")
    return re.sub(r"\.(?!\d)", "", result)


def _words_normalised(text: str) -> str:
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
