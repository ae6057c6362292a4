"""A fair sample of a run's rows against the references in its source."""

from jobs.source_rows import SampleKey, read_samples, reference_of
from pipeline.report.folder import RunFolder
from pipeline.report.picks import Tag
from pipeline.report.quality import Quality, Reference, quality_of
from pipeline.report.scan import RunScan

_COLUMNS = ("shard", "key", "prompt", "text")


def score_sample(folder: RunFolder, scan: RunScan, field: str | None = None) -> Quality | None:
    """Scores of the sampled rows; None if the source has no references for them."""
    rows = list(folder.rows(scan.results.picks[Tag.SAMPLE].picks, _COLUMNS).values())
    by_sample: dict[SampleKey, list[int]] = {}
    for i, row in enumerate(rows):
        by_sample.setdefault((row["shard"], row["key"]), []).append(i)
    references: dict[int, Reference | None] = {}
    for sample, raw in read_samples(folder, by_sample):
        for i in by_sample[sample]:
            references[i] = reference_of(raw.fields, rows[i]["prompt"], field)
    return quality_of([(rows[i]["text"] or "", reference) for i, reference in sorted(references.items())])
