"""The rows a report shows one by one: text cut into tokens with the depth and confidence of each."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.folder import RunFolder
from pipeline.report.picks import Pick, Tag
from pipeline.report.repeats import is_looping
from pipeline.report.scan import RunScan
from pipeline.report.work import layers_run, work_of

NUM_SHADES = 9  # steps of the colour scale of depth, 0 shallow .. 8 deep
_ERROR_SHARE = 0.25  # of the gallery, at most
_LONGEST_TEXT = 4000  # characters; one caption must not become the report
_COLUMNS = (
    "sample_id", "shard", "key", "prompt_index", "prompt", "text", "num_tokens", "finish_reason", "mean_confidence",
    "min_confidence", "mean_depth", "exit_layers", "confidences", "token_texts", "e2e_s", "device_s", "width", "height",
)  # fmt: skip

RowKey = tuple[str | None, int | None]  # sample_id, prompt_index


@dataclass(frozen=True)
class Token:
    text: str
    layer: int | None
    confidence: float | None
    shade: int | None  # of its depth


@dataclass(frozen=True)
class GalleryItem:
    """One row of results or errors. `others`: what other runs said about the same row, in the order of the runs."""

    key: RowKey
    shard: str
    sample_key: str
    prompt: str | None
    text: str
    tokens: tuple[Token, ...]
    tags: frozenset[Tag]
    finish_reason: str | None = None
    mean_depth: float | None = None
    computed_depth: float | None = None  # layers computed a step, see work.py
    min_confidence: float | None = None
    e2e_s: float | None = None
    size: tuple[int, int] | None = None
    error: tuple[str, str, str] | None = None  # stage, type, message
    references: tuple[str, ...] = ()
    others: tuple["GalleryItem | None", ...] = ()


def choose_items(folder: RunFolder, scan: RunScan, limit: int) -> list[GalleryItem]:
    """At most `limit` rows: some of every tag, errors up to a quarter, the rest a fair sample."""
    error_picks = _round_robin([kind.examples.picks for kind in scan.errors.kinds.values()], int(limit * _ERROR_SHARE))
    by_tag = {tag: first.picks for tag, first in scan.results.picks.items()}
    special = [by_tag.get(tag, []) for tag in (Tag.UNCERTAIN, Tag.DEEP, Tag.TRUNCATED, Tag.LOOPED)]
    room = limit - len(error_picks)
    picks = _round_robin(special, room * 2 // 3, key=lambda pick: (pick.file, pick.row))
    chosen = {(pick.file, pick.row) for pick in picks}
    fair = [pick for pick in by_tag.get(Tag.SAMPLE, []) if (pick.file, pick.row) not in chosen]
    picks += fair[: room - len(picks)]
    tags = {(pick.file, pick.row): set[Tag]() for pick in picks}
    for tag, tagged in by_tag.items():
        for pick in tagged:
            if (pick.file, pick.row) in tags and (tag is not Tag.SAMPLE or pick in fair):
                tags[pick.file, pick.row].add(tag)
    rows = folder.rows(picks, _COLUMNS)
    items = [result_item(rows[pick], scan, tags[pick.file, pick.row]) for pick in picks]
    errors = folder.rows(error_picks)
    return items + [_error_item(errors[pick]) for pick in error_picks]


def result_item(row: Mapping[str, Any], scan: RunScan, tags: Iterable[Tag] = ()) -> GalleryItem:
    """Return a row of the run that `scan` is of."""
    reason, num_layers, exit_layers = row["finish_reason"], num_layers_of(scan), row["exit_layers"]
    work = work_of(((scan.record or {}).get("config") or {}).get("engine") or {})
    computed = layers_run(exit_layers, work, num_layers) if exit_layers else None
    derived = {Tag.TRUNCATED} if reason == "length" else set()
    derived |= {Tag.LOOPED} if reason == "loop" or is_looping(row["text"]) else set()
    return GalleryItem(
        key=(row["sample_id"], row["prompt_index"]),
        shard=row["shard"] or "",
        sample_key=row["key"] or "",
        prompt=row["prompt"],
        text=(row["text"] or "")[:_LONGEST_TEXT],
        tokens=_tokens(row, num_layers),
        tags=frozenset({*tags, *derived}),
        finish_reason=reason,
        mean_depth=row["mean_depth"],
        computed_depth=None if computed is None else computed / len(exit_layers),
        min_confidence=row["min_confidence"],
        e2e_s=row["e2e_s"],
        size=None if row["width"] is None or row["height"] is None else (row["width"], row["height"]),
    )


def find_items(folder: RunFolder, wanted: Sequence[GalleryItem], scan: RunScan) -> dict[RowKey, GalleryItem]:
    """Return the same rows in another run of the same source; those it does not have are left out."""
    keys = {item.key for item in wanted}
    files = {f"results/{item.shard}.parquet" for item in wanted} & set(folder.results)
    found: dict[RowKey, GalleryItem] = {}
    for file in sorted(files):
        first_row, picks = 0, []
        for batch in folder.batches(file, ("sample_id", "prompt_index")):
            pairs = zip(batch["sample_id"].to_pylist(), batch["prompt_index"].to_pylist(), strict=True)
            picks += [Pick(0.0, file, first_row + i) for i, pair in enumerate(pairs) if pair in keys]
            first_row += batch.num_rows
        for row in folder.rows(picks, _COLUMNS).values():
            item = result_item(row, scan)
            found[item.key] = item
    return found


def num_layers_of(scan: RunScan) -> int:
    """Full depth, or the deepest layer seen where a run has not ended."""
    known = ((scan.record or {}).get("device") or {}).get("num_layers")
    seen = scan.results.depth_steps.nonzero()[0]
    return int(known or (seen[-1] if seen.size else 1))


def shade_of(layer: float, num_layers: int) -> int:
    """0 for the first layer, NUM_SHADES - 1 for full depth."""
    if num_layers <= 1:
        return NUM_SHADES - 1
    return round((NUM_SHADES - 1) * min(1.0, max(0.0, (layer - 1) / (num_layers - 1))))


def _tokens(row: Mapping[str, Any], num_layers: int) -> tuple[Token, ...]:
    """Tokens with their steps; one plain token where the lists are missing or do not fit."""
    texts, layers = row["token_texts"] or [], row["exit_layers"] or []
    confidences = row["confidences"] or [None] * len(layers)
    if not texts or not len(texts) == len(layers) == len(confidences):
        text = (row["text"] or "")[:_LONGEST_TEXT]
        return (Token(text, None, None, None),) if text else ()
    tokens: list[Token] = []
    length = 0
    for text, layer, confidence in zip(texts, layers, confidences, strict=True):
        length += len(text or "")
        if length > _LONGEST_TEXT:
            return (*tokens, Token("…", None, None, None))
        tokens.append(Token(text or "", layer, confidence, None if layer is None else shade_of(layer, num_layers)))
    return tuple(tokens)


def _error_item(row: Mapping[str, Any]) -> GalleryItem:
    return GalleryItem(
        key=(row["sample_id"], row["prompt_index"]),
        shard=row["shard"] or "",
        sample_key=row["key"] or "",
        prompt=row["prompt"],
        text="",
        tokens=(),
        tags=frozenset({Tag.ERROR}),
        size=None if row["width"] is None or row["height"] is None else (row["width"], row["height"]),
        error=(row["stage"] or "unknown", row["error_type"] or "unknown", row["message"] or ""),
    )


def _round_robin(lists: Sequence[Sequence[Pick]], limit: int, key: Any = None) -> list[Pick]:
    """Return the first of each list, then the second of each, .. without repeats."""
    picks: dict[Any, Pick] = {}
    for pick in itertools.chain.from_iterable(itertools.zip_longest(*lists)):
        if pick is not None and len(picks) < limit:
            picks.setdefault(key(pick) if key else pick, pick)
    return list(picks.values())
