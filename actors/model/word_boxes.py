"""Prompts that bring words found in the image: text form for the pipeline, token form for the encoder.

Text form: the question, then one line per word, its box in thousandths of the image and, after a tab, the word:

    what does the sign say?
    120 400 310 520\tK7TQ

Token form: a token of a word carries its box in the same integer, so that requests stay tuples of integers;
id = token + vocabulary * code, where code is 0 without a box and 1 + the box's number with one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 1001  # coordinates 0..1000
_LINE = re.compile(r"(\d+) (\d+) (\d+) (\d+)\t(.+)")
Box = tuple[int, int, int, int]  # x0, y0, x1, y1
FAR_CORNER: Box = (LEVELS - 1,) * 4  # of what ends a question and its words, for UDOP


@dataclass(frozen=True)
class Word:
    """A word and where it is, in thousandths of the image."""

    text: str
    box: Box


def split_words(prompt: str) -> tuple[str, list[Word]]:
    """Text form -> question and words; a line that is no word belongs to the question."""
    question, words = [], []
    for line in prompt.split("\n"):
        if match := _LINE.fullmatch(line):
            x0, y0, x1, y1 = (min(LEVELS - 1, int(match[i])) for i in range(1, 5))
            words.append(Word(match[5], (x0, y0, x1, y1)))
        else:
            question.append(line)
    return "\n".join(question), words


def pack(token_ids: Sequence[int], box: Box, vocab_size: int) -> list[int]:
    """Tokens of one word -> ids that carry its box."""
    code = 0
    for level in box:
        code = code * LEVELS + level
    return [token_id + vocab_size * (1 + code) for token_id in token_ids]


def unpack(ids: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [...] -> tokens [...], boxes [..., 4] in thousandths (0 without one), and where there is one [...]."""
    code = torch.div(ids, vocab_size, rounding_mode="floor")
    has_box = code > 0
    code = (code - 1).clamp(min=0)
    levels = []
    for _ in range(4):
        levels.append(code % LEVELS)
        code = torch.div(code, LEVELS, rounding_mode="floor")
    return ids % vocab_size, torch.stack(levels[::-1], dim=-1), has_box
