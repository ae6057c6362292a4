"""Words found in an image, as a sample's fields have them -> lines that a prompt carries to models which read them.

One line per word, its box in thousandths of the image and, after a tab, the word: `120 400 310 520<TAB>K7TQ`. What
finds the words (OCR, or a corpus that knows them) writes them into the sample:

    "words": [{"text": "K7TQ", "box": [120, 400, 310, 520]}]                       thousandths: x0, y0, x1, y1
    "image_size": 128, "sign": {"plates": [{"text": "K7TQ", "x": 27.5, "y": 58.9, "width": 24, "height": 15}]}
                                                                                   pixels: centre and size
"""

from collections.abc import Mapping
from typing import Any


def word_lines(fields: Mapping[str, Any], path: str) -> str:
    """Return the lines, each after a line break, of the words at a dotted path; empty when the sample has none there.

    LookupError for words that are not as described above.
    """
    found: Any = fields
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        return ""
    try:
        return "".join(f"\n{' '.join(map(str, _box(word, fields)))}\t{_one_line(word['text'])}" for word in found)
    except (KeyError, TypeError, ValueError):
        raise LookupError(
            f"field {path!r} must hold a list of words with `text` and `box`, or with x, y, width and height beside an "
            "`image_size` of the sample"
        ) from None


def _box(word: Mapping[str, Any], fields: Mapping[str, Any]) -> list[int]:
    if "box" in word:
        x0, y0, x1, y1 = word["box"]
        return [_thousandth(value) for value in (x0, y0, x1, y1)]
    scale = 1000 / float(fields["image_size"])
    half_width, half_height = word["width"] / 2, word["height"] / 2
    edges = (word["x"] - half_width, word["y"] - half_height, word["x"] + half_width, word["y"] + half_height)
    return [_thousandth(edge * scale) for edge in edges]


def _thousandth(value: float) -> int:
    return min(1000, max(0, round(value)))


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
