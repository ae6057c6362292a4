"""The lines of `deed plan`."""

import json
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.plan import describe
from pipeline.output.preview import Preview, Speed
from pipeline.source.plan import LeftOut
from tests.integration.corpus import write_checkpoint
from tests.shards import write_shards


def plan(**changes: object) -> Preview:
    values: dict[str, object] = {
        "output": "runs/a", "held_by": None, "shards": 10, "size_bytes": 12_345_678, "size_rows": 0,
        "shards_published": 4, "shards_started": 1, "shards_retried": 0, "shards_counted": 5, "samples_counted": 500,
        "samples_estimated": 1000.0, "samples_done": 420, "chunks_counted": 50, "chunks_staged": 2, "num_actors": 2,
        "actor_cpus": 1.0, "actor_gpus": 0.5, "speed": Speed("runs/a", 420, 84.0), "time_s": 58.0, "cost": 0.5,
        "currency": "EUR", "left_out": (LeftOut("hidden_files", 1100, ("._a.jpg",)),),
    }  # fmt: skip
    return Preview(**{**values, **changes})  # type: ignore[arg-type]


def test_estimates_are_called_so() -> None:
    text = "\n".join(describe(plan(), True, 1, 4))
    assert "about 1,000, 500 in 5 shards counted" in text
    assert "(12.3 MB)" in text
    assert "(2.31 kB, 4,000 rows)" in "\n".join(describe(plan(size_bytes=2310, size_rows=4000), True, 1, 4))
    assert "2 (from 1 to 4), with 1 CPUs and 0.5 GPUs each" in text
    assert "about 58 s, at 5 samples/s for each actor" in text
    assert "about 0.50 EUR" in text
    assert "left out  1,100 hidden files (._a.jpg, ...)" in text


def test_unknown_stays_unknown() -> None:
    text = "\n".join(describe(plan(speed=None, time_s=None, cost=None), True, 2, 2))
    assert "time      unknown" in text
    assert "cost      unknown" in text
    text = "\n".join(describe(plan(cost=None), False, 2, 2))
    assert "unknown: set cost.price_per_hour" in text
    text = "\n".join(describe(plan(samples_estimated=None, time_s=None, cost=None), True, 2, 2))
    assert "samples   unknown" in text
    assert "time      unknown: no sample count" in text


def test_the_command_takes_the_arguments_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "in", 2, 5)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    arguments = ["plan", f"{tmp_path}/in/*.tar", "--out", f"{tmp_path}/out", "--checkpoint", str(checkpoint)]
    assert main([*arguments, "--count", "--json", "--cpus", "16", "--gpus", "0"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["shards"], shown["samples_counted"], shown["num_actors"]) == (2, 10, 8)
    assert main([*arguments, "--cpus", "1", "--gpus", "0"]) == 2
    assert "the cluster has 1 and 0" in capsys.readouterr().err
