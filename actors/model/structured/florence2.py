"""Florence-2's texts -> boxes, quadrilaterals and polygons, in pixels of the original image.

A place is two tokens `<loc_0>` .. `<loc_999>`, x before y, in thousandths of the image's width and height, and stands
for the middle of its cell. A phrase comes before its places. Values, oddities included, are those of the library's
`Florence2Processor.post_process_generation`; pixels are computed in float32 as there and cut to whole ones.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

_BINS = 1000
_PLACE = r"<loc_\d+>"
_MARK = rf"(?:{_PLACE}|<sep>|<poly>|</poly>)"
_PLACE_NUMBER = re.compile(r"<loc_(\d+)>")
_PHRASE_WITH_BOXES = re.compile(rf"([^<]+)((?:{_PLACE}){{4,}})")
_BOXES_ALONE = re.compile(rf"()((?:{_PLACE}){{4,}})")
_LINE_WITH_QUAD = re.compile(rf"(.+?)((?:{_PLACE}){{8}})")
_PHRASE_WITH_POLYGONS = re.compile(rf"[^<]+{_MARK}{{4,}}")
_POLYGONS_ALONE = re.compile(rf"{_MARK}{{4,}}")
_BEFORE_PLACES = re.compile(r"\s*(.*?)(?=<loc_|<poly>)")
_POLYGON_GROUP = re.compile(r"<poly>(.*?)</poly>")
_POLYGON = re.compile(rf"((?:{_PLACE})+)(?:<sep>|$)")

Size = tuple[int, int]  # width, height, pixels
Labelled = tuple[str, Any]  # phrase, and its box or polygons


def fields_of(text: str, task: str | None, size: Size, banned_phrases: Collection[str] = ()) -> dict[str, Any] | None:
    """Return what a text says as lists, one entry per thing; None for tasks whose answer is plain text.

    `banned_phrases` are left out of what <CAPTION_TO_PHRASE_GROUNDING> finds.
    """
    if task not in _TASKS:
        return None
    for marker in ("<s>", "</s>", "<pad>"):
        text = text.replace(marker, "")
    return _TASKS[task](text, size, banned_phrases)


def _lists(values: str, labels: str, found: Sequence[Labelled]) -> dict[str, Any]:
    return {values: [value for _, value in found], labels: [label for label, _ in found]}


def _boxes(
    text: str, size: Size, pattern: re.Pattern[str] = _PHRASE_WITH_BOXES, banned: Collection[str] = ()
) -> list[Labelled]:
    found: list[Labelled] = []
    for before, places in pattern.findall(text):
        phrase = before.lstrip()
        if "\n" in phrase:
            continue
        phrase = phrase.strip()
        if phrase in banned:
            continue
        pixels = _pixels(places, size)
        boxes = [pixels[first : first + 4] for first in range(0, len(pixels) - 3, 4)]
        found += [(phrase.encode("ascii", "ignore").decode(), box) for box in boxes]
    return found


def _quads(text: str, size: Size) -> list[Labelled]:
    return [(line.strip(), _pixels(places, size)) for line, places in _LINE_WITH_QUAD.findall(text)]


def _polygons(text: str, size: Size, pattern: re.Pattern[str]) -> list[Labelled]:
    return [found for match in pattern.finditer(text) for found in _polygons_of_phrase(match.group(), size)]


def _polygons_of_phrase(text: str, size: Size) -> Iterator[Labelled]:
    """Yield one entry for each `<poly>` group, or one for all polygons where there is none."""
    start = _PLACE_NUMBER.match(text)
    phrase = _BEFORE_PLACES.match(text, start.end() if start else 0)
    if phrase is None:
        return
    groups = _POLYGON_GROUP.findall(text) if "<poly>" in text and "</poly>" in text else [text]
    for group in groups:
        polygons = [_pixels(places, size, even=True) for places in _POLYGON.findall(group)]
        if polygons:
            yield phrase.group(1).strip(), polygons


def _pixels(places: str, size: Size, *, even: bool = False) -> list[int]:
    """Return the coordinates of places, x and y in turn; `even`: an x without a y is left out."""
    bins = [int(number) for number in _PLACE_NUMBER.findall(places)]
    if even and len(bins) % 2:
        bins.pop()
    pixels_per_bin = np.resize(np.float32([side / _BINS for side in size]), len(bins))
    middles = np.array(bins, np.int64).astype(np.float32) + np.float32(0.5)
    pixels: list[int] = (middles * pixels_per_bin).astype(np.int64).tolist()
    return pixels


def _with_boxes(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    return _lists("bboxes", "labels", _boxes(text, size))


def _with_phrases(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    return _lists("bboxes", "labels", _boxes(text, size, banned=banned))


def _with_proposals(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    return _lists("bboxes", "labels", _boxes(text, size, _BOXES_ALONE))


def _with_quads(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    return _lists("quad_boxes", "labels", _quads(text, size))


def _with_polygons(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    return _lists("polygons", "labels", _polygons(text, size, _POLYGONS_ALONE))


def _with_boxes_or_polygons(text: str, size: Size, banned: Collection[str]) -> dict[str, Any]:
    drawn = "<poly>" in text
    boxes = [] if drawn else _boxes(text, size)
    polygons = _polygons(text, size, _PHRASE_WITH_POLYGONS) if drawn else []
    return _lists("bboxes", "bboxes_labels", boxes) | _lists("polygons", "polygons_labels", polygons)


_TASKS = {
    "<OD>": _with_boxes,
    "<DENSE_REGION_CAPTION>": _with_boxes,
    "<CAPTION_TO_PHRASE_GROUNDING>": _with_phrases,
    "<REGION_PROPOSAL>": _with_proposals,
    "<OCR_WITH_REGION>": _with_quads,
    "<REFERRING_EXPRESSION_SEGMENTATION>": _with_polygons,
    "<REGION_TO_SEGMENTATION>": _with_polygons,
    "<OPEN_VOCABULARY_DETECTION>": _with_boxes_or_polygons,
}
