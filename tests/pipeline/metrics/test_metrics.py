"""The text scores agree with the packages everybody quotes, and their corner cases are pinned."""

import json
import math
import random
from pathlib import Path

import pytest
from anls import anls_score
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.metrics.answers import anls, exact_match, relaxed_accuracy, vqa_accuracy
from pipeline.metrics.captions import bleu_4, cider_d, cider_d_scores, rouge_l, tokenize
from pipeline.metrics.intervals import wilson_interval
from pipeline.metrics.objects import object_names, object_scores, set_f1

SPRITES = Path(__file__).parents[3] / "assets" / "sprites" / "sprites.json"


def corpus(num_images: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Captions and references of a small language, so that they overlap a lot; some captions are very short."""
    rng = random.Random(seed)
    words = ["a", "the", "two", "red", "blue", "dog", "cat", "on", "under", "near", "sign", "house", "with", "small"]

    def sentence(most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, most)))

    references = [[sentence(14) for _ in range(rng.randint(1, 5))] for _ in range(num_images)]
    predictions = [rng.choice([texts[0], sentence(14), texts[-1] + " dog", "cat"]) for texts in references]
    return predictions, references


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_is_that_of_pycocoevalcap(seed: int) -> None:
    predictions, references = corpus(40, seed)
    scorer = CiderScorer(n=4, sigma=6.0)
    for prediction, texts in zip(predictions, references, strict=True):
        scorer += (prediction, texts)
    mean, scores = scorer.compute_score()
    assert cider_d_scores(predictions, references) == pytest.approx(scores.tolist(), rel=1e-9)
    assert cider_d(predictions, references) == pytest.approx(float(mean), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_4_is_that_of_pycocoevalcap(seed: int) -> None:
    predictions, references = corpus(40, seed)
    scorer = BleuScorer(n=4)
    for prediction, texts in zip(predictions, references, strict=True):
        scorer += (prediction, texts)
    scores, _ = scorer.compute_score(option="closest")
    assert bleu_4(predictions, references) == pytest.approx(scores[3], rel=1e-9)


def test_bleu_4_of_a_too_long_corpus_has_no_brevity_penalty() -> None:
    scorer = BleuScorer(n=4)
    scorer += ("a b c d e f", ["a b c d e"])
    assert bleu_4(["a b c d e f"], [["a b c d e"]]) == pytest.approx(scorer.compute_score(option="closest")[0][3])


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_is_that_of_pycocoevalcap(seed: int) -> None:
    predictions, references = corpus(40, seed)
    mean, _ = Rouge().compute_score(dict(enumerate(references)), {i: [text] for i, text in enumerate(predictions)})
    assert rouge_l(predictions, references) == pytest.approx(float(mean), rel=1e-9)


def test_cider_d_of_one_image_is_zero() -> None:
    assert cider_d(["a dog"], [["a dog"]]) == 0.0


def test_scores_of_no_images_are_not_a_number() -> None:
    assert math.isnan(cider_d([], []))
    assert math.isnan(rouge_l([], []))


@pytest.mark.parametrize("score", [cider_d, bleu_4, rouge_l])
def test_empty_predictions_score_zero(score) -> None:
    assert score(["", "."], [["a red dog on grass"], ["two cats"]]) == pytest.approx(0.0, abs=1e-6)


# What Stanford's PTBTokenizer gives with punctuation removed, as in pycocoevalcap.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man, riding a Horse.", "a man riding a horse"),
        ("the dog's ball isn't here", "the dog 's ball is n't here"),
        ("He can't; they're late!", "he ca n't they 're late"),
        ("a T-shirt (red)", "a t-shirt red"),
        ("1,000 people at 3.5 dollars", "1,000 people at 3.5 dollars"),
        ('a sign that says "STOP"', "a sign that says stop"),
        ("don\u2019t \u201cpanic\u201d \u2014 now", "do n't panic now"),
        ("3d tv & 50% off", "3d tv & 50 % off"),
        ("café au lait", "café au lait"),
        ("", ""),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens.split()


TEXT = st.text(alphabet="abcAB  .é", max_size=12)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=4))
def test_anls_is_that_of_the_anls_package(prediction: str, references: list[str]) -> None:
    assert anls(prediction, references) == pytest.approx(anls_score(prediction, references))


def test_anls_at_a_distance_of_exactly_half_is_zero() -> None:
    assert anls("ab", ["ax"]) == 0.0
    assert anls("abc", ["abx"]) == pytest.approx(2 / 3)


def test_exact_match_ignores_case_and_spacing_only() -> None:
    assert exact_match(" Two  dogs", ["one", "two dogs"])
    assert not exact_match("two dogs.", ["two dogs"])


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("105", "100", True),
        ("94.9", "100", False),
        ("5%", "0.05", True),
        ("1,050", "1000", True),
        ("Paris", "paris", True),
        ("0.0", "0", False),
        ("about 5", "5", False),
        ("-95", "-100", True),
        ("nan", "5", False),
    ],
)
def test_relaxed_accuracy(prediction: str, reference: str, right: bool) -> None:
    assert relaxed_accuracy(prediction, [reference]) is right


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("yes", ["yes"] * 3 + ["no"] * 7, 0.9),  # three of ten: 3 x min(2/3, 1) + 7 x min(3/3, 1)
        ("yes", ["yes"] + ["no"] * 9, 0.3),
        ("no", ["yes"] * 10, 0.0),
        ("Two.", ["2"] * 10, 1.0),
        ("the dog", ["dog"] * 10, 1.0),
        ("dont know", ["don't know"] * 9 + ["no"], 1.0),
        ("a red-brown cat", ["red brown cat"] * 10, 1.0),
        ("1,000", ["1000"] * 10, 1.0),
        ("t-shirt", ["t-shirt"] * 9 + ["shirt"], 1.0),
        ("T-shirt", ["t-shirt"] * 10, 1.0),
        ("yes", ["yes"] * 2 + ["no"] * 8, 0.6),  # 2 x min(1/3, 1) + 8 x min(2/3, 1)
        ("yes", ["yes"] * 4 + ["no"] * 6, 1.0),  # 4 x min(3/3, 1) + 6 x min(4/3, 1)
        ("yes", ["yes"] * 2 + ["no"], 4 / 9),  # of three, as OK-VQA has had it: 2 x 1/3 + 1 x 2/3
        ("the girl's hat", ["girl's hat"] * 3 + ["girls hat"] * 7, 0.9),  # apostrophes stay
        ("2:50 PM.", ["2:50 pm"] * 10, 1.0),  # and so do colons
        ("100,978", ["100978"] * 10, 1.0),  # no space for a comma between digits
        ("red, white", ["red white"] * 10, 1.0),
        ("None", ["0"] * 10, 1.0),
        ("a", ["an"] * 10, 1.0),  # nothing is left of either
        ("youre", ["you're"] * 10, 1.0),
        ("it is 3.", ["it is 3"] * 10, 1.0),
        ("3.5", ["3.5"] * 10, 1.0),
        ("blue", ["blue"], 1.0),
        ("blue", ["red"], 0.0),
    ],
)
def test_vqa_accuracy(prediction: str, references: list[str], score: float) -> None:
    assert vqa_accuracy(prediction, references) == pytest.approx(score)


def test_contractions_are_repaired_whichever_apostrophe_is_missing() -> None:
    for text in ("couldntve", "couldn'tve", "couldnt've", "couldn't've"):
        assert vqa_accuracy(text, ["couldn't've"] * 10) == 1.0


def test_every_sprite_is_found_by_its_name_and_by_its_plural() -> None:
    sprites = json.loads(SPRITES.read_text())
    vocabulary = object_names(sprite["name"] for sprite in sprites)
    for sprite in sprites:
        for form in (sprite["name"], sprite["plural"]):
            assert vocabulary.find(f"there is the {form}, above it") == {sprite["name"]}


def test_the_longest_name_wins() -> None:
    vocabulary = object_names(["fire", "fire engine", "dog"])
    assert vocabulary.find("Three fire engines, a fire and a dog's bone") == {"fire engine", "fire", "dog"}


def test_object_scores() -> None:
    vocabulary = object_names(["dog", "cat", "cow"])
    texts, objects = ["two dogs and a cat", "a cow"], [["dog", "dog", "cow"], ["cow"]]
    by_set = object_scores(texts, objects, vocabulary)  # found dog, cat | cow; present dog, cow | cow
    assert (by_set.precision, by_set.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert set_f1(texts, objects, vocabulary) == by_set.f1
    assert set_f1([""], [[]], vocabulary) == 0.0


def test_wilson_interval() -> None:
    low, high = wilson_interval(95, 100)
    assert (round(low, 4), round(high, 4)) == (0.8882, 0.9785)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(0, 10)[0] == 0.0
