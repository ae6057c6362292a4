"""From picture files to boxes in an export: what the library's processor, generate and post-processing say."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from actors.backend import load_backend
from actors.captioner import Captioner
from conf.checkpoint_files import read_model_config
from conf.schema import JobConfig
from jobs.cli import main
from pipeline.ops.crash_log import CrashLog
from pipeline.output.publish import publish_shard
from pipeline.output.storage import Storage
from pipeline.services import RunServices
from pipeline.source.readers import make_reader
from pipeline.stages import IndexShard, PrepareChunk, shard_task
from tests.actors.interop.sources import randomise
from tests.actors.interop.zoo import florence2_with
from tests.actors.test_captioner import LocalActor

STEPS = 40
TASKS = ["<OD>", "<REGION_PROPOSAL>", "<OCR_WITH_REGION>", "<REFERRING_EXPRESSION_SEGMENTATION> a dog", "<CAPTION>"]
SIZES = [(90, 22), (48, 140), (1, 1), (64, 64), (130, 97)]


@pytest.fixture(scope="module")
def florence2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A directory with its library model and processor; most of its tokens are places."""
    path = tmp_path_factory.mktemp("florence2")
    model, processor = florence2_with(*(f"<loc_{number}>" for number in range(1000)))
    randomise(model.eval(), 2, 1.1)
    model.save_pretrained(path / "source")
    processor.save_pretrained(path / "source")
    rng = np.random.default_rng(0)
    (path / "in").mkdir()
    for number, (width, height) in enumerate(SIZES):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path / "in" / f"{number}.png")
    return path, model, processor


def run_job(config: JobConfig) -> None:
    """What `deed caption` does, without Ray: the stages, the actor's class and publication, one after the other."""
    reader, storage = make_reader(config.source), Storage(config.output.path)
    services = RunServices(storage, "run", (), LocalActor(CrashLog()), None)
    model = read_model_config(config.model.checkpoint)
    index = IndexShard(reader, storage, config.source.chunk_rows)
    prepare = PrepareChunk.from_config(config, reader, model.plan, RunServices(storage, "run", ()))
    for shard in reader.shards(()).shards:
        chunks = [c for spans in index(pa.Table.from_pylist([shard_task(shard, [])])) for c in prepare(spans)]

        async def caption(chunks: list[pa.Table] = chunks) -> None:
            captioner = Captioner(partial(load_backend, config.model, config.engine, 1), services)
            for chunk in chunks:
                await captioner(chunk)

        asyncio.run(caption())
        assert publish_shard(storage, shard.name).counts is not None


def test_boxes_of_a_converted_florence2(florence2: tuple[Path, Any, Any], tmp_path: Path) -> None:
    path, model, processor = florence2
    assert main(["convert", str(path / "source"), str(tmp_path / "checkpoint")]) == 0
    found: dict[tuple[str, str], Any] = {}
    for number, task in enumerate(TASKS):
        run_job(JobConfig.model_validate({
            "source": {"kind": "images", "paths": [str(path / "in")], "prompt": {"template": task}},
            "model": {"checkpoint": str(tmp_path / "checkpoint"), "device": "cpu"},
            "engine": {"schedule": "full", "generation": {"max_new_tokens": STEPS}},
            "output": {"path": str(tmp_path / f"out-{number}")},
        }))  # fmt: skip
        assert (
            main(["export", str(tmp_path / f"out-{number}"), "--to", "jsonl", "--out", str(tmp_path / "x.jsonl")]) == 0
        )
        for line in (tmp_path / "x.jsonl").read_text().splitlines():
            row = json.loads(line)
            found[task, row["key"].rpartition("/")[2]] = (row["text"], row["fields"], row["token_ids"])
    boxes = 0
    for task in TASKS:
        for number, size in enumerate(SIZES):
            image = Image.open(path / "in" / f"{number}.png")
            inputs = processor(images=image, text=task, return_tensors="pt")
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, num_beams=1)
            text = processor.batch_decode(ids, skip_special_tokens=False)[0]
            name = task.partition(" ")[0]
            theirs = processor.post_process_generation(text, task=name, image_size=size)[name]
            said, fields, token_ids = found[task, f"{number}.png"]
            assert ids[0, 1 : 1 + len(token_ids)].tolist() == token_ids
            if isinstance(theirs, str):
                assert (said, fields) == (theirs, None)
            else:
                assert json.loads(fields) == theirs
                boxes += sum(len(values) for values in theirs.values()) // 2
    assert boxes > 20
    assert (
        main(["export", str(tmp_path / "out-0"), "--to", "coco-detections", "--out", str(tmp_path / "boxes.json")]) == 0
    )
    assert json.loads((tmp_path / "boxes.json").read_text())["annotations"]
