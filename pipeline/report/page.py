"""The report as one HTML file that needs nothing else: no network, no other files, and it works without JavaScript."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import charts, facts
from pipeline.report import number_formats as formats
from pipeline.report.build import Report
from pipeline.report.gallery import NUM_SHADES, GalleryItem, Token, shade_of
from pipeline.report.picks import Tag
from pipeline.report.safe_text import visible, visible_piece
from pipeline.report.side_by_side import compared_sections
from pipeline.report.time_saved import time_saved

_FOLDER = Path(__file__).parent
_MIME_TYPES = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}
_LATENCIES = {
    "e2e_s": "whole request",
    "queue_wait_s": "waiting for a slot",
    "ttft_s": "to the first token",
    "decode_s": "decoding",
}
FILTERS = {  # in the order of the buttons
    Tag.UNCERTAIN: "least certain",
    Tag.DEEP: "deepest",
    Tag.TRUNCATED: "cut",
    Tag.LOOPED: "repeating",
    Tag.ERROR: "failed",
}


@dataclass(frozen=True)
class Card:
    """A gallery item as the template needs it."""

    item: GalleryItem
    picture: str | None  # data URI
    profile: Markup
    search: str  # what the search looks through
    others: tuple[tuple[str, GalleryItem | None], ...]  # name of the run, the same row there


def render_html(report: Report, *, generated_utc: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "number", "share", "seconds", "hours", "money", "size"):
        environment.filters[name] = getattr(formats, name)
    environment.filters |= {"visible": visible, "pretty": _pretty, "pieces": _pieces, "doubt": _doubt}
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    first = report.runs[0]
    num_layers = first.exits.num_layers or max((depth.layer for depth in first.exits.histogram), default=1)
    return environment.get_template("report.html.j2").render(
        report=report,
        runs=[(run, {section.id: section for section in facts.sections_of(run)}) for run in report.runs],
        compared=compared_sections(report.runs) if len(report.runs) > 1 else [],
        cards=[_card(report, item, num_layers) for item in report.gallery],
        filters=FILTERS,
        scale=[(layer, shade_of(layer, num_layers)) for layer in range(1, num_layers + 1)],
        num_shades=NUM_SHADES,
        latencies=_LATENCIES,
        charts=charts,
        reconciliation=facts.reconciliation,
        interval_of=facts.interval_of,
        time_saved=time_saved,
        shade_of=shade_of,
        generated_utc=generated_utc,
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _card(report: Report, item: GalleryItem, num_layers: int) -> Card:
    names = [run.name for run in report.runs[1:]]
    said = [item.text, *(other.text for other in item.others if other is not None)]
    words = [*said, item.sample_key, item.shard, item.prompt or "", *item.references, *(item.error or ())]
    return Card(
        item=item,
        picture=_data_uri((report.thumbnails or {}).get((item.shard, item.sample_key))),
        profile=charts.profile(
            [token.shade for token in item.tokens], [(token.layer or 0) / num_layers for token in item.tokens]
        ),
        search=visible(" ".join(words), 2000).lower(),
        others=tuple(zip(names, item.others, strict=True)) if item.others else (),
    )


def _data_uri(image: bytes | None) -> str | None:
    """None too for bytes that are none of the formats browsers and we agree on."""
    mime_type = None if image is None else _MIME_TYPES.get(image[:2])
    return None if image is None or mime_type is None else f"data:{mime_type};base64,{base64.b64encode(image).decode()}"


def _pieces(item: GalleryItem) -> list[tuple[str, str, Token]]:
    """(space before, text, token) as shown; outer spaces of the text and empty end-of-sequence tokens are left out."""
    pieces: list[tuple[str, str, Token]] = []
    space = ""
    for token in item.tokens:
        text = visible_piece(token.text)
        stripped = text.strip(" ")
        space += text[: len(text) - len(text.lstrip(" "))]
        if stripped:
            pieces.append((" " if space and pieces else "", stripped, token))
            space = " " if text.endswith(" ") else ""
    return pieces


def _doubt(confidence: float | None) -> int | None:
    """0 for certain .. 8 for a confidence of one half or less."""
    return None if confidence is None else min(8, max(0, round((1 - confidence) * 16)))


def _pretty(value: Mapping[str, Any]) -> str:
    lines = json.dumps(value, indent=2, ensure_ascii=False, default=str).splitlines()
    return "\n".join(" " * (len(line) - len(line.lstrip())) + visible(line, 2000) for line in lines)
