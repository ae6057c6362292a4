"""Whether a text repeats itself: the mark of a decoder that has run into a loop. Derived from the text alone."""

import re

import numpy as np

# Words; characters of scripts that put no spaces between words (Thai, Lao, Kana, Han) count as words of their own.
_UNIT = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|\w+")
_LONGEST_PHRASE = 16  # words
_TIMES, _TIMES_ONE_WORD = 3, 4  # in a row; people do say one word three times
_MOST_CHARACTERS = 20_000


def is_looping(text: str | None) -> bool:
    """True if a phrase of 2 to 16 words is said three times in a row, or one word four times; case does not count."""
    units = _UNIT.findall((text or "")[:_MOST_CHARACTERS].lower())
    if len(units) - len(set(units)) < _TIMES_ONE_WORD - 1:  # most texts: too few repeated words for any loop
        return False
    ids = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    words = np.array([ids[unit] for unit in units])
    for length in range(1, min(_LONGEST_PHRASE, len(words) // _TIMES) + 1):
        times = _TIMES_ONE_WORD if length == 1 else _TIMES
        same = np.concatenate(([0], (words[length:] == words[:-length]).astype(np.int8), [0]))
        starts, ends = np.flatnonzero(np.diff(same) == 1), np.flatnonzero(np.diff(same) == -1)
        if starts.size and int((ends - starts).max()) >= length * (times - 1):
            return True
    return False
