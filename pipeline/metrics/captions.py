"""Scores of a corpus of captions, one text and one or more references per image; they follow pycocoevalcap.

Given the same tokens the numbers are the same. Its own tokens come from a Java program (the Penn Treebank tokenizer),
ours from the regular expression below, which agrees with it on plain English: numbers are comparable with each other,
and with a leaderboard only approximately.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

# PTB-like: lower case, "don't" -> do n't, "dog's" -> dog 's, hyphenated words and numbers stay whole, punctuation goes.
_TOKEN = re.compile(
    r"""n't\b | '(?:s|m|d|re|ve|ll)\b | \d+(?:[.,:/]\d+)*(?!\w) | \w+?(?=n't\b) | \w+(?:-\w+)* | [^\w\s]""", re.VERBOSE
)
_DROPPED = frozenset("'`\"()[]{}.?!,:;-\u2026\u201c\u201d\u2018\u2013\u2014")  # the last: ellipsis, quotes, dashes


def tokenize(text: str) -> list[str]:
    """Return the words of a caption as the caption scores count them."""
    found = _TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [token for token in found if token not in _DROPPED]


Ngram = tuple[str, ...]
Vectors = tuple[list[dict[Ngram, float]], list[float], int]  # weights by n, their norms, length of the text
_MAX_N = 4
_TINY, _SMALL = 1e-15, 1e-9  # as in the reference implementation of BLEU: no division by zero, no guess scores 0


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D, usually 0..2 and at most 10: n-gram similarity, weighted by how rare an n-gram is among all references.

    The weights come from the corpus itself: a corpus of one image scores 0, and two corpora are not comparable.
    """
    return _mean(cider_d_scores(predictions, references))


def cider_d_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of every image."""
    _check(predictions, references)
    counted = [[_ngrams(tokenize(text)) for text in texts] for texts in references]
    images_with = Counter(ngram for counts in counted for ngram in set().union(*counts))
    log_images = math.log(len(counted)) if counted else 0.0

    def weighted(counts: Counter[Ngram]) -> Vectors:
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_MAX_N)]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * (log_images - math.log(max(1, images_with[ngram])))
        norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in vectors]
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)  # length in bigrams

    scores = []
    for prediction, counts in zip(predictions, counted, strict=True):
        ours = weighted(_ngrams(tokenize(prediction)))
        scores.append(10 * sum(_similarity(ours, weighted(theirs)) for theirs in counts) / len(counts))
    return scores


def _similarity(ours: Vectors, theirs: Vectors) -> float:
    """Cosine of the clipped vectors, averaged over n, damped where the lengths differ."""
    (hyp, hyp_norms, hyp_length), (ref, ref_norms, ref_length) = ours, theirs
    total = 0.0
    for n in range(_MAX_N):
        dot = sum(min(weight, ref[n].get(ngram, 0.0)) * ref[n].get(ngram, 0.0) for ngram, weight in hyp[n].items())
        total += dot / (hyp_norms[n] * ref_norms[n]) if hyp_norms[n] and ref_norms[n] else dot
    return total / _MAX_N * math.exp(-((hyp_length - ref_length) ** 2) / (2 * 6.0**2))


def bleu_4(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4: shared n-grams up to four words, with the penalty for texts shorter than the closest reference."""
    _check(predictions, references)
    correct, guessed, our_length, reference_length = [0] * _MAX_N, [0] * _MAX_N, 0, 0
    for prediction, texts in zip(predictions, references, strict=True):
        ours = tokenize(prediction)
        theirs = [tokenize(text) for text in texts]
        most: Counter[Ngram] = Counter()
        for tokens in theirs:
            most |= _ngrams(tokens)
        for ngram, count in _ngrams(ours).items():
            correct[len(ngram) - 1] += min(count, most[ngram])
        for n in range(_MAX_N):
            guessed[n] += max(0, len(ours) - n)
        our_length += len(ours)
        reference_length += min((abs(len(tokens) - len(ours)), len(tokens)) for tokens in theirs)[1]
    precision = math.prod((c + _TINY) / (g + _SMALL) for c, g in zip(correct, guessed, strict=True))
    ratio = (our_length + _TINY) / (reference_length + _SMALL)
    return float(precision ** (1 / _MAX_N) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0))


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L: the longest common subsequence as an F-score (beta 1.2) of its best precision and best recall."""
    _check(predictions, references)
    return _mean(
        [_rouge_l(tokenize(p), [tokenize(r) for r in rs]) for p, rs in zip(predictions, references, strict=True)]
    )


def similar(text: str, references: Sequence[str]) -> float:
    """Return ROUGE-L, and 1 for one of the references, be it without any word."""
    return 1.0 if text in references else rouge_l([text], [references])


def _rouge_l(ours: list[str], references: list[list[str]], beta: float = 1.2) -> float:
    common = [_common_length(ours, theirs) for theirs in references]
    precision = max(common) / len(ours) if ours else 0.0
    recall = max(c / len(theirs) if theirs else 0.0 for c, theirs in zip(common, references, strict=True))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision and recall else 0.0


def _common_length(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for token in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if token == other else max(row[j], row[j - 1])
    return row[-1]


def _ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, _MAX_N + 1) for i in range(len(tokens) - n + 1))


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    assert len(predictions) == len(references), "one list of references per prediction"
    assert all(references), "at least one reference per prediction"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
