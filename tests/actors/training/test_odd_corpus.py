"""Training reads odd collections as captioning does: every file is used, or left out for the same reason."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from actors.training.corpus import LabelledCorpus
from actors.training.rows.row_source import RowSource
from conf.image_plan import ImagePlan
from conf.rows import RowsConfig
from pipeline.source.plan import LeftOut
from tests.odd_corpus import BESIDE, DONE, write_folder, write_odd_manifest, write_odd_parquet, write_odd_tar

PLAN = ImagePlan.squeeze(32)


def expected(fates: Iterable[str]) -> Counter[str]:
    return Counter(fate.removeprefix("left out: ") for fate in fates)


def found(used: int, left_out: Iterable[LeftOut]) -> Counter[str]:
    """How many samples were used, and how many of everything else, by reason."""
    return Counter({DONE: used}) + Counter({part.reason: part.count for part in left_out})


def outcome(kind: str, path: Path, passthrough: list[str]) -> Counter[str]:
    source = {"kind": kind, "paths": [str(path)], "chunk_rows": 16, "passthrough": passthrough}
    rows = RowSource(RowsConfig.model_validate({"source": source}), PLAN)
    return found(len(rows.readable(rows.places)), rows.left_out)


def test_a_folder(tmp_path: Path) -> None:
    fates = write_folder(tmp_path / "photos")
    # Metadata and sidecars give images their fields: nothing is lost with them.
    lost = expected(fate for _, fate in fates if fate not in (BESIDE, "left out: metadata_files"))
    assert outcome("images", tmp_path / "photos", ["txt", "title"]) == lost


def test_a_tar(tmp_path: Path) -> None:
    fates = write_odd_tar(tmp_path / "odd.tar")
    assert outcome("webdataset", tmp_path / "odd.tar", ["txt", "title"]) == expected(f for _, f in fates if f != BESIDE)


def test_a_parquet_file(tmp_path: Path) -> None:
    fates = write_odd_parquet(tmp_path / "odd.parquet")
    assert outcome("parquet", tmp_path / "odd.parquet", ["when", "price", "raw", "tags"]) == expected(fates)


def test_a_manifest(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    fates = write_odd_manifest(tmp_path / "list.jsonl", tmp_path / "photos")
    assert outcome("manifest", tmp_path / "list.jsonl", ["title"]) == expected(fates)


def test_a_labelled_tar(tmp_path: Path) -> None:
    fates = write_odd_tar(tmp_path / "odd.tar")
    corpus = LabelledCorpus([str(tmp_path / "odd.tar")])
    samples = [(shard, sample) for shard in corpus.shards for sample in corpus.samples(shard)]
    used = sum(corpus.decoded(shard, sample, PLAN) is not None for shard, sample in samples)
    # Without captions or questions a sample is left out before its image is decoded.
    undecoded = {"empty_image", "truncated_image", "not_an_image", "too_many_pixels", DONE}
    left_out = ("no_labels" if fate in undecoded else fate for _, fate in fates if fate != BESIDE)
    assert found(used, corpus.left_out) == expected(left_out)
