"""The bench at toy sizes: what all variants say, rows, slices, the last line of stdout, tables. No time is asserted."""

import json
from pathlib import Path
from typing import Any

import pytest

from conf.bench import BenchConfig, BenchModel
from conf.errors import UserError
from jobs.bench.engine.cells import Cell, plan
from jobs.bench.engine.passes import Outcome, percentile
from jobs.bench.engine.result_rows import row_of
from jobs.bench.engine.variants import FULL, VARIANTS

SWEEP = {
    "models": ["t5_tiny"], "distributions": ["clustered"], "slots": [3], "lengths": [6], "rounds": 2,
    "sequences_per_slot": 2, "min_sequences": 6, "variants": list(VARIANTS),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def make_config(folder: Path, *sweeps: dict[str, Any], **values: Any) -> BenchConfig:
    return BenchConfig.model_validate({
        "sweeps": [{**SWEEP, **sweep} for sweep in sweeps] or [SWEEP], "work_dir": str(folder), "settle_s": 0,
        "results": str(folder / "results.jsonl"), "num_threads": 1, "replayed_sequences": 2, **values,
    })  # fmt: skip


def outcome_of(config: BenchConfig, cell: Cell, name: str) -> Outcome | None:
    """None where the variant does not apply."""
    from jobs.bench.engine.models import make_model
    from jobs.bench.engine.ours import OurEngine
    from jobs.bench.engine.theirs import make_opponent

    make_model(config, cell.model)
    variant = VARIANTS[name]
    try:
        if variant.runner == "engine":
            runner: Any = OurEngine(config, cell.model, variant)
        else:
            runner = make_opponent(variant.runner, config, cell.model)
        runner.prepare(cell)
    except UserError:
        return None
    return runner.verify()


@pytest.mark.parametrize("model", ["t5_tiny", "pix2struct_tiny", "t5gemma2_tiny", "scenes"])
@pytest.mark.parametrize("encoder", ["run", "replayed"])
def test_variants_at_full_depth_say_the_same_text(folder: Path, model: str, encoder: str) -> None:
    cell = plan(make_config(folder, {"models": [model], "encoder": encoder}))[0]
    names = [name for name in VARIANTS if not VARIANTS[name].exits_early and "weights" not in VARIANTS[name].changes]
    said = {name: outcome_of(make_config(folder), cell, name) for name in names}
    full = said[FULL]
    assert full is not None
    assert len({token for row in full.tokens for token in row}) >= 6
    assert {len(row) for row in full.tokens} == {6}
    applies = {name for name in names if said[name] is not None}
    assert applies == set(names) - ({"ctranslate2"} if (model, encoder) != ("t5_tiny", "run") else set())
    assert all(outcome.tokens == full.tokens for outcome in said.values() if outcome is not None)
    assert full.replayed_tokens == full.replayed_exits == 1.0


@pytest.mark.parametrize("distribution", ["independent", "clustered"])
def test_scripted_variants_leave_where_the_script_says(folder: Path, distribution: str) -> None:
    from actors.model.checkpoint import load_checkpoint
    from jobs.bench.engine.places import checkpoint_of
    from jobs.bench.engine.workload import make_depths

    config = make_config(folder, {"distributions": [distribution]})
    cell = plan(config)[0]
    names = [name for name in VARIANTS if VARIANTS[name].exits_early and name not in ("consensus", "lossless")]
    said = {name: outcome_of(config, cell, name) for name in names}
    depths = make_depths(config, cell, load_checkpoint(checkpoint_of(config, cell.model)))
    exact = []
    for name, outcome in said.items():
        assert outcome is not None, name
        assert outcome.exit_indices == depths, name
        assert outcome.replayed_exits is None  # the oracle knows nothing of scripts
        if not VARIANTS[name].changes.keys() & {"kv", "weights"}:
            assert outcome.replayed_tokens == 1.0, name
            exact.append(outcome.tokens)
    pool = said["pool"]
    assert pool is not None
    # A shortlist says the likeliest of its candidates, which need not be the exit's own word.
    assert sum(tokens == pool.tokens for tokens in exact) >= len(exact) - 1


@pytest.mark.parametrize("encoder", ["run", "replayed"])
def test_smaller_weights_say_as_much(folder: Path, encoder: str) -> None:
    cell = plan(make_config(folder, {"encoder": encoder}))[0]
    for name in ("full_bf16", "full_int8"):
        outcome = outcome_of(make_config(folder), cell, name)
        assert outcome is not None
        assert {len(row) for row in outcome.tokens} == {6}
        assert outcome.replayed_tokens is not None
        assert outcome.replayed_tokens > 0.8


def test_consensus_and_lossless(folder: Path) -> None:
    config = make_config(folder)
    cell = plan(config)[0]
    consensus, pool = outcome_of(config, cell, "consensus"), outcome_of(config, cell, "pool")
    assert consensus is not None
    assert pool is not None
    assert consensus.exit_indices is not None
    assert pool.exit_indices is not None
    assert sum(map(sum, consensus.exit_indices)) >= sum(map(sum, pool.exit_indices))
    assert outcome_of(config, cell, "lossless") is None
    own = plan(make_config(folder, {"models": ["scenes"], "distributions": ["own"]}))[0]
    lossless, full = outcome_of(config, own, "lossless"), outcome_of(config, own, FULL)
    assert lossless is not None
    assert full is not None
    assert lossless.tokens == full.tokens
    theirs = outcome_of(config, own, "transformers")
    assert theirs is not None
    assert theirs.tokens == full.tokens
    assert (theirs.padding or 0) > 0  # outputs end at different lengths; static batches wait


def test_the_bench_end_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.bench.engine import bench
    from jobs.bench.engine.results_page import render

    variants = ["full", "compaction", "pool", "lossless"]
    config = make_config(folder, {"variants": variants})
    assert bench(config, "deed bench engine --test") == 0
    out = capsys.readouterr().out.splitlines()
    last = json.loads(out[-1])
    assert last["schema_version"] == 3
    assert last["command"] == "deed bench engine --test"
    assert last["rows_in"] == last["rows_out"] == 3 * 6
    assert {"commit", "hardware", "seed", "rates", "results"} <= last.keys()
    rates, table = (next(i for i, line in enumerate(out) if text in line) for text in ("GFLOP/s", "seq/s"))
    assert rates < table

    rows = [row_of(json.loads(line)) for line in Path(config.results).read_text().splitlines()]
    assert [row.variant for row in rows] == variants
    by_name = {row.variant: row for row in rows}
    assert by_name["lossless"].skipped
    full, pool = by_name["full"], by_name["pool"]
    assert full.ratio == full.decode_ratio == 1.0
    assert full.mean_depth == 4.0
    assert pool.mean_depth == pytest.approx(1.6, abs=0.05)
    assert pool.replayed_tokens == 1.0
    assert by_name["compaction"].agreement_outputs == 1.0
    assert pool.agreement_outputs is None
    assert pool.involuntary_exits == 0
    for name in ("ratio", "decode_ratio", "decode_bound", "host_share", "gate_share", "latency_p99_s"):
        assert (getattr(pool, name) or 0) > 0, name
    assert pool.encode_share + pool.decode_share + pool.gate_share + pool.host_share == pytest.approx(1, abs=0.02)  # type: ignore[operator]

    document = folder / "docs" / "bench.md"
    assert render(Path(config.results), document) == 0
    text = document.read_text()
    assert "t5_tiny" in text
    assert "| pool |" in text
    assert (folder / "docs" / "bench.svg").stat().st_size > 1000


def test_slices_add_up_to_the_whole(folder: Path) -> None:
    sweep = {
        "models": ["t5_tiny", "scenes"],
        "distributions": ["own", "clustered"],
        "slots": [1, 8],
        "lengths": [8, 20],
    }
    whole = plan(make_config(folder, sweep))
    assert len(whole) == 2 + 2 * 2 * 2  # own: scenes alone, with no set length; clustered: both models, both lengths
    parts = [
        c
        for s in (1, 8)
        for m in ("t5_tiny", "scenes")
        for c in plan(make_config(folder, sweep, slots=[s], models=[m]))
    ]
    assert {c.key for c in parts} == {c.key for c in whole}
    assert [c.variants for c in plan(make_config(folder, sweep, variants=["pool"]))] == [("full", "pool")] * len(whole)
    with pytest.raises(UserError, match="no sweep holds"):
        plan(make_config(folder, sweep, slots=[7]))
    with pytest.raises(UserError, match="no variant 'fast'"):
        plan(make_config(folder, sweep, variants=["fast"]))


def test_sweeps_that_meet_share_a_cell(folder: Path) -> None:
    one, two = {"variants": ["pool"], "rounds": 3}, {"variants": ["inplace"], "sequences_per_slot": 9}
    (cell,) = plan(make_config(folder, one, two))
    assert cell.variants == ("full", "inplace", "pool")
    assert (cell.rounds, cell.num_sequences) == (3, 27)


@pytest.mark.parametrize("name", ["bench", "bench-all", "bench-quick"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    from conf.load import load_config

    cells = plan(load_config(Path(__file__).parents[3] / "conf" / f"{name}.yaml", [], BenchConfig))
    assert BenchModel.SCENES in {cell.model for cell in cells}


def test_percentiles() -> None:
    values = [float(i) for i in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([3.0], 0.99) == 3.0
