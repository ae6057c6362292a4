"""What training reads: the samples and pixels of the pipeline, and a count of what cannot be used."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.training.corpus import LabelledCorpus, pixels_of
from actors.training.rows.row_source import RowSource
from actors.training.scratch.trainer import Trainer
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.rows import RowsConfig
from jobs.cli import main
from tests.actors.training.corpus import tiny_config, write_corpus

LABELS = {"captions": ["a square"]}
SIZE = 32
PLAN = ImagePlan.squeeze(SIZE)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
PNG = encode(PICTURE)


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, payload in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    return str(path)


def labelled(stem: str, image: bytes = PNG, suffix: str = "png", labels: Any = LABELS) -> dict[str, bytes]:
    return {f"{stem}.{suffix}": image, f"{stem}.json": json.dumps(labels).encode()}


def all_samples(path: str) -> list[Any]:
    corpus = LabelledCorpus([path])
    return [sample for shard in corpus.shards for sample in corpus.samples(shard)]


def test_a_well_formed_corpus_gives_what_a_plain_reading_of_its_tar_gives(tmp_path: Path) -> None:
    """Keys, order, files, labels and pixels: what the shipped checkpoint was trained on stays what it was."""
    assert main([
        "scenes", "--config", "conf/scenes.yaml", "--set", "num_images=6", "--set", "images_per_shard=6",
        "--set", f"out={tmp_path}",
    ]) == 0  # fmt: skip
    (path,) = tmp_path.rglob("*.tar")
    parts: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            parts.setdefault(key, {})[suffix] = archive.extractfile(member).read()  # type: ignore[union-attr]
    samples = all_samples(str(path))
    assert [sample.key for sample in samples] == list(parts)
    for sample, files in zip(samples, parts.values(), strict=True):
        (image,) = (data for suffix, data in files.items() if suffix != "json")
        assert sample.image == image
        record = json.loads(files["json"])
        assert {**sample.record, "captions": 0, "qa": 0} == {**record, "captions": 0, "qa": 0}
        assert [c["text"] for c in sample.record["captions"]] == [c["text"] for c in record["captions"]]
        assert all({**question, **own} == own for question, own in zip(record["qa"], sample.record["qa"], strict=True))
        with Image.open(io.BytesIO(image)) as opened:
            size = opened.width
            np.testing.assert_array_equal(pixels_of(sample, ImagePlan.squeeze(size)), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("folder", ["./", "v1.0/", "./v1.0/", "a.b/c/"])
def test_dots_in_folders_are_no_ends_of_keys(tmp_path: Path, folder: str) -> None:
    path = write_tar(tmp_path / "x.tar", {**labelled(f"{folder}a"), **labelled(f"{folder}b")})
    stem = folder.removeprefix("./")
    assert [sample.key for sample in all_samples(path)] == [f"{stem}a", f"{stem}b"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "avif", "jfif"])
def test_every_format_of_the_pipeline_is_read(tmp_path: Path, suffix: str) -> None:
    form = {"jpg": "JPEG", "jfif": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper())
    path = write_tar(tmp_path / "x.tar", labelled("a", encode(PICTURE, form), suffix))
    assert len(all_samples(path)) == 1


def test_pixels_are_the_pipelines(tmp_path: Path) -> None:
    """Turned, on white, and scaled from sixteen bits, as captioning does it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    half = Image.new("RGB", (SIZE, SIZE), "white")
    half.paste("black", (0, 0, SIZE, SIZE // 2))
    members = {
        **labelled("turned", encode(half, exif=exif)),
        **labelled("glass", encode(Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0)))),
        **labelled("deep", encode(Image.new("I;16", (SIZE, SIZE), 257 * 100))),
    }
    turned, glass, deep = (pixels_of(sample, PLAN) for sample in all_samples(write_tar(tmp_path / "x.tar", members)))
    assert (turned[0].min(), turned[-1].max()) == (255, 0)
    assert glass.min() == 255
    assert (deep.min(), deep.max()) == (100, 100)


BAD = {
    **labelled("cut", PNG[:200]),
    **labelled("text", b"no image"),
    **labelled("unlabelled", labels={}),
    **labelled("list", labels=[1]),
    **labelled("odd", labels={"captions": [{"prompt": "no text"}]}),
    "broken.png": PNG,
    "broken.json": b"{",
    "alone.json": b"{}",
    "picture-only.png": PNG,
}
REASONS = {
    "truncated_image": 1, "not_an_image": 1, "no_labels": 2, "bad_labels": 2, "bad_json": 1, "no_image": 1,
}  # fmt: skip


def counts(corpus: LabelledCorpus | RowSource) -> dict[str, int]:
    return {part.reason: part.count for part in corpus.left_out}


def test_bad_samples_are_counted_by_reason_and_cost_nothing_else(tmp_path: Path) -> None:
    good = {name: data for n in range(5) for name, data in labelled(f"good{n}").items()}
    corpus = LabelledCorpus([write_tar(tmp_path / "x.tar", {**BAD, **good})])
    for _ in range(2):  # what is read again is counted once
        assert [sample.key for sample in corpus.first(100, PLAN)] == [f"good{n}" for n in range(5)]
        assert counts(corpus) == REASONS
    assert len(corpus.first(2, PLAN)) == 2


def test_training_goes_on_without_them_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "shards", 8)
    write_tar(tmp_path / "shards" / "bad.tar", BAD)
    config = tiny_config(tmp_path / "out", str(tmp_path / "shards" / "*.tar"))
    reports: list[dict[str, Any]] = []
    trainer = Trainer(config, reports.append)
    assert trainer.run()
    assert trainer.epoch >= 1
    said = {part["reason"]: part["count"] for part in reports[-1]["left_out"]}
    assert said == REASONS


def test_a_stopped_epoch_with_bad_images_goes_on_where_it_stopped(tmp_path: Path) -> None:
    good = {name: data for n in range(12) for name, data in labelled(f"good{n}").items()}
    bad = {name: data for n in range(6) for name, data in labelled(f"bad{n}", PNG[:300]).items()}
    shards = write_tar(tmp_path / "x.tar", {**good, **bad})
    trainer = Trainer(tiny_config(tmp_path / "out", shards, loss={"grounding_weight": 0}), lambda _: None)
    whole = [[sample.key for sample in batch] for batch, _ in zip(trainer._batches(), range(3), strict=False)]
    assert sorted(key for batch in whole for key in batch) == sorted(f"good{n}" for n in range(12))
    trainer.epoch, trainer.epoch_images = 0, 0
    batches = trainer._batches()
    next(batches)
    resumed = [[sample.key for sample in next(trainer._batches())] for _ in range(2)]
    assert resumed == whole[1:]


@pytest.mark.parametrize("optimizer", [{"batch_images": 9}, {"encoder_steps": 2, "encoder_batch_images": 9}])
def test_a_corpus_smaller_than_a_step_is_one_sentence(tmp_path: Path, optimizer: dict[str, int]) -> None:
    shards = write_corpus(tmp_path, 8)
    settings = {"batch_images": 4, "total_steps": 12, "warmup_steps": 2, **optimizer}
    trainer = Trainer(tiny_config(tmp_path / "out", shards, optimizer=settings), lambda _: None)
    with pytest.raises(UserError, match=r"8 labelled images are fewer than .* optimizer\.\w*batch_images=9"):
        trainer.run()


@pytest.mark.parametrize("members", [BAD, {"a.txt": b"x"}, labelled("cut", PNG[:200])])
def test_a_corpus_without_one_good_sample_is_one_sentence(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=r"^no labelled images in .*x\.tar"):
        LabelledCorpus([path]).first(3, PLAN)
    with pytest.raises(UserError, match="no labelled images"):
        Trainer(tiny_config(tmp_path / "out", path), lambda _: None)


def test_a_cut_shard_keeps_what_came_before_the_cut(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "x.tar", {n: d for k in "abc" for n, d in labelled(k).items()}))
    path.write_bytes(path.read_bytes()[:12_000])
    corpus = LabelledCorpus([str(path)])
    assert [sample.key for sample in corpus.first(9, PLAN)] == ["a", "b"]
    assert counts(corpus)["truncated_shard"] == 1


def test_odd_objects_and_texts_cost_nothing(tmp_path: Path) -> None:
    odd = [
        {"captions": ["half \ud83d"]},
        {"captions": ["x"], "objects": [{"label": "no name"}, {"name": "cat"}, 3], "sign": {"plates": [{}]}},
        {"captions": ["x"], "objects": "none", "sign": 5},
        {"qa": [{"question": "how many?", "answer": 3}, {"question": "what?", "answers": "one text"}]},
    ]
    members = {name: data for n in range(8) for name, data in labelled(f"k{n}", labels=odd[n % 4]).items()}
    write_corpus(tmp_path / "shards", 8)
    write_tar(tmp_path / "shards" / "odd.tar", members)
    optimizer = {"batch_images": 4, "total_steps": 12, "warmup_steps": 2, "encoder_steps": 6, "encoder_batch_images": 4}
    config = tiny_config(tmp_path / "out", str(tmp_path / "shards" / "*.tar"), optimizer=optimizer)
    trainer = Trainer(config, lambda _: None)
    assert trainer.run()
    assert not trainer.corpus.left_out


def test_images_without_labels_are_the_same_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"v1.0/a.avif": encode(PICTURE, "AVIF"), **BAD})
    source = RowSource(RowsConfig.model_validate({"source": {"paths": [path]}}), PLAN)
    images = source.readable(source.places)
    assert [image.rows[0].key for image in images] == [
        "v1.0/a", "unlabelled", "list", "odd", "broken", "picture-only",
    ]  # fmt: skip
    assert counts(source) == {"truncated_image": 1, "not_an_image": 1, "no_image": 1}
