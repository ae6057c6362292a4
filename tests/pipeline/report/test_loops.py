"""Which texts count as looping."""

import pytest

from pipeline.report.repeats import is_looping


@pytest.mark.parametrize(
    "text",
    [
        "a red a red a red",
        "A dog on A Dog, on a dog on the",
        "no no no no",
        "it began well and then the sign says the sign says the sign says the",
        "猫と犬猫と犬猫と犬",
    ],
)
def test_a_phrase_three_times_in_a_row_or_a_word_four_times(text: str) -> None:
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "very very very good",
        "a red dog and a red cat and a red house and a red boat",
        "a dog and a dog",
        "1111111111",
        "three, two, three, two",
    ],
)
def test_ordinary_repetition_is_none(text: str | None) -> None:
    assert not is_looping(text)


def test_a_long_period_and_a_hostile_length() -> None:
    phrase = " ".join(f"w{i}" for i in range(16))
    assert is_looping(f"{phrase} {phrase} {phrase}")
    assert not is_looping(f"{phrase} {phrase}")
    assert is_looping("a " * 5_000_000)
