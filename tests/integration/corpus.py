"""A source, a checkpoint directory and a configuration for runs with the fake engine, and what they must give."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actors.captioner import Captioner
from conf.schema import JobConfig
from pipeline.run import CaptionerSpec
from tests.fake_engine import decode_tokens, encode_prompt, expected_tokens, make_backend
from tests.shards import write_shards

IMAGE_SIZE = 32
PROMPT = "describe the image"


def write_checkpoint(folder: Path, weights: bytes = b"weight") -> Path:
    """A directory that looks like a checkpoint from outside; the fake engine never opens the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = {"num_layers": 8, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 8, "d_cross": 8, "vocab_size": 300}
    config = {
        "name": "fake",
        "image_size": IMAGE_SIZE,
        "encoder": {"num_layers": 1, "d_model": 8, "num_heads": 1, "d_ff": 8},
        "decoder": decoder,
        "exits": [2, 4, 6, 8],
        "thresholds": [0.9, 0.9, 0.9],
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def make_config(root: Path, **sections: Any) -> JobConfig:
    """Shards from root/in to root/out; sections are merged over the defaults."""
    write_checkpoint(root / "checkpoint")
    values: dict[str, dict[str, Any]] = {
        "source": {"paths": [f"{root}/in/*"], "chunk_rows": 16, "passthrough": ["number"]},
        "model": {"checkpoint": str(root / "checkpoint")},
        "engine": {"generation": {"max_new_tokens": 32}},
        "output": {"path": str(root / "out")},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return JobConfig.model_validate(values)


def fake_spec(config: JobConfig, **options: Any) -> CaptionerSpec:
    return CaptionerSpec(Captioner, partial(make_backend, IMAGE_SIZE, **options))


def expected_text(number: int, prompt: str = PROMPT) -> str:
    """What the fake engine says of `tests.shards.sample_members(number)`."""
    pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    pixels[:] = (number % 251, (7 * number) % 251, 100)
    return decode_tokens(expected_tokens(encode_prompt(prompt), pixels))


def check_exactly_once(root: Path, num_shards: int, rows_per_shard: int, broken: tuple[str, ...] = ()) -> None:
    """Every sample of `write_shards` with these arguments is in results or errors once, with the right content."""
    results = pq.read_table(root / "out" / "results").to_pylist()
    errors = pq.read_table(root / "out" / "errors").to_pylist()
    numbers = {row["sample_id"]: int(row["key"]) for row in results}
    assert len(numbers) == len(results) == num_shards * rows_per_shard
    assert sorted(numbers.values()) == list(range(num_shards * rows_per_shard))
    assert all(row["text"] == expected_text(int(row["key"])) for row in results)
    assert all(row["src_number"] == str(int(row["key"])) for row in results)
    wanted = sorted(f"part-{shard:03d}/broken-{name}" for shard in range(num_shards) for name in broken)
    assert sorted(row["sample_id"] for row in errors) == wanted
    for shard in range(num_shards):
        keys = pq.read_table(root / "out" / "results" / f"part-{shard:03d}.parquet")["key"].to_pylist()
        assert keys == sorted(keys), "not in input order"
    assert sorted(path.name for path in (root / "out").iterdir()) == [
        "_state",
        "engine_stats",
        "errors",
        "results",
        "run.json",
    ]
    assert not list((root / "out").rglob(".tmp-*"))


__all__ = ["check_exactly_once", "expected_text", "fake_spec", "make_config", "write_checkpoint", "write_shards"]
