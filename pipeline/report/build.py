"""Run directories -> everything a report shows: numbers, scores, agreement between runs, and the gallery."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.report.compare import Comparison, SharedRow, compare_rows
from pipeline.report.folder import RunFolder
from pipeline.report.gallery import GalleryItem, RowKey, choose_items, find_items
from pipeline.report.numbers import numbers_of
from pipeline.report.picks import Tag
from pipeline.report.quality import quality_of
from pipeline.report.report_schema import RunNumbers, is_full_depth
from pipeline.report.scan import RunScan, scan_run
from pipeline.report.work import layers_run, work_of
from pipeline.source.references import Reference

SampleKey = tuple[str, str]  # shard, key in the shard
Prompt = str | None
# a run and the samples wanted -> what is right for a prompt, per sample; samples that cannot be found are left out
FindReferences = Callable[[RunFolder, Sequence[SampleKey]], Mapping[SampleKey, Callable[[Prompt], Reference | None]]]
FindThumbnails = Callable[[RunFolder, Sequence[SampleKey]], Mapping[SampleKey, bytes]]  # JPEG, PNG or WebP bytes


@dataclass(frozen=True)
class Report:
    """One or more runs; the gallery is of the first one, with what the others said beside it."""

    runs: tuple[RunNumbers, ...]
    comparisons: tuple[Comparison | None, ...]  # of each run with the first; None for the first, or without shared rows
    gallery: tuple[GalleryItem, ...] = ()
    thumbnails: Mapping[SampleKey, bytes] | None = None


def build_report(
    urls: Sequence[str],
    *,
    num_items: int = 96,
    num_sampled: int = 2000,
    find_references: FindReferences | None = None,
    find_thumbnails: FindThumbnails | None = None,
) -> Report:
    """Read the runs. References and previews come from the sources, which only the caller knows how to read."""
    folders = [RunFolder(url) for url in urls]
    scans = [
        scan_run(folder, num_examples=-(-num_items // 4), num_sampled=max(num_sampled, num_items)) for folder in folders
    ]
    samples = [_sampled_rows(folder, scan) for folder, scan in zip(folders, scans, strict=True)]
    items = choose_items(folders[0], scans[0], num_items)
    runs = []
    for i, (folder, scan) in enumerate(zip(folders, scans, strict=True)):
        quality = None
        if find_references is not None:
            wanted = {_sample_key(row) for row in samples[i].values()}
            wanted |= {(item.shard, item.sample_key) for item in items} if i == 0 else set()
            found = find_references(folder, sorted(wanted))
            quality = quality_of(
                [
                    (row["text"] or "", found[_sample_key(row)](row["prompt"]))
                    for row in samples[i].values()
                    if _sample_key(row) in found
                ]
            )
            items = [_with_references(item, found) for item in items] if i == 0 else items
        runs.append(numbers_of(scan, quality))
    runs = _distinctly_named(runs)
    shared = [
        {key: _shared_row(row, run) for key, row in rows.items()} for run, rows in zip(runs, samples, strict=True)
    ]
    runs = [replace(run, against_full_depth=_full_depth(i, runs, shared)) for i, run in enumerate(runs)]
    comparisons = [None, *(_compare(runs[0].name, shared[i], shared[0]) for i in range(1, len(runs)))]
    if len(folders) > 1:
        others = [find_items(f, items, s) for f, s in zip(folders[1:], scans[1:], strict=True)]
        items = [replace(item, others=tuple(found.get(item.key) for found in others)) for item in items]
    thumbnails = None
    if find_thumbnails is not None:
        thumbnails = find_thumbnails(folders[0], [(item.shard, item.sample_key) for item in items])
    return Report(tuple(runs), tuple(comparisons), tuple(items), thumbnails)


def _sampled_rows(folder: RunFolder, scan: RunScan) -> dict[RowKey, dict[str, Any]]:
    columns = ("sample_id", "shard", "key", "prompt_index", "prompt", "text", "exit_layers", "device_s")
    rows = folder.rows(scan.results.picks[Tag.SAMPLE].picks, columns).values()
    return {(row["sample_id"], row["prompt_index"]): row for row in rows}


def _sample_key(row: Mapping[str, Any]) -> SampleKey:
    return (row["shard"] or "", row["key"] or "")


def _with_references(item: GalleryItem, found: Mapping[SampleKey, Callable[[Prompt], Reference | None]]) -> GalleryItem:
    lookup = found.get((item.shard, item.sample_key))
    reference = lookup(item.prompt) if lookup is not None and item.error is None else None
    return item if reference is None else replace(item, references=reference.texts)


def _shared_row(row: Mapping[str, Any], run: RunNumbers) -> SharedRow:
    work = work_of(run.identity.config.get("engine") or {})
    return SharedRow(row["text"], layers_run(row["exit_layers"] or (), work, run.exits.num_layers), row["device_s"])


def _compare(other: str, ours: Mapping[RowKey, SharedRow], theirs: Mapping[RowKey, SharedRow]) -> Comparison | None:
    return compare_rows(other, [(row, theirs[key]) for key, row in ours.items() if key in theirs])


def _full_depth(i: int, runs: Sequence[RunNumbers], shared: Sequence[Mapping[RowKey, SharedRow]]) -> Comparison | None:
    """Against a run among these that had the same weights and never left early."""
    ours = runs[i].identity
    for j, run in enumerate(runs):
        same_model = run.identity.weights_sha256 == ours.weights_sha256 is not None
        if i != j and same_model and is_full_depth(run) and not is_full_depth(runs[i]):
            return _compare(run.name, shared[i], shared[j])
    return runs[i].against_full_depth


def _distinctly_named(runs: Sequence[RunNumbers]) -> list[RunNumbers]:
    """Runs by the last part of their path, or by all of it where that is the same."""
    names = [run.name for run in runs]
    return [replace(run, name=run.identity.url) if names.count(run.name) > 1 else run for run in runs]
