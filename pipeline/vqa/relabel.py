"""Uncertain answers of a tick, given again at full depth and replaced: each once, whatever is killed in between.

    TICK/relabel/              a run at full depth over just those (sample, prompt), as `deed caption` writes one
    TICK/relabel/changes.json  written when that run is complete: what will be replaced
    TICK/results/SHARD.parquet the tick's own files, replaced whole, one after the other
    TICK/relabel.json          written last, with the same content as changes.json

Until changes.json is there the tick's files stay as they are, so which answers are uncertain is always read from the
same rows. Replacing is by (sample, prompt): doing it again after a kill changes nothing. What was said is replaced,
with its confidences and depths. Times and device seconds of a row stay those of its first answer, so that the accounts
of the tick close; those of the second are in relabel/.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from conf.schema import JobConfig
from conf.vqa import VqaConfig
from pipeline.output.publish import RESULTS, published_name, replace_results
from pipeline.output.storage import Storage
from pipeline.source.plan import Contents, Sample, Shard
from pipeline.tables import ANSWER, results_schema, with_columns_of
from pipeline.vqa.ticks import Tick, TickReader, tick_config, with_prompts

RELABEL, CHANGES_NAME, DONE_NAME = "relabel", "changes.json", "relabel.json"
Pair = tuple[str, str]  # sample_id, prompt


@dataclass(frozen=True)
class Changes:
    """What relabelling one tick did."""

    relabel_below: float
    shards: tuple[str, ...]  # names of those with an uncertain answer
    uncertain: int  # answers that were
    answered: int  # of those, given again; the others failed, have an error in relabel/errors, and stay
    changed: int  # of those, with another text


def due(root: Storage, ticks: Sequence[Tick]) -> Iterator[Tick]:
    """Complete ticks that have not been gone through to the end."""
    return (tick for tick in ticks if tick.is_complete(root) and not root.exists(f"{tick.folder}/{DONE_NAME}"))


def load_changes(root: Storage, tick: Tick) -> Changes | None:
    """None while the run at full depth is not known to be complete."""
    try:
        raw = json.loads(root.read(f"{tick.folder}/{RELABEL}/{CHANGES_NAME}"))
    except FileNotFoundError:
        return None
    return Changes(**{**raw, "shards": tuple(raw["shards"])})


def uncertain(root: Storage, tick: Tick, shard_name: str, limit: float) -> set[Pair]:
    """Answers of a shard with a token below the limit."""
    table = root.read_table(_results(tick.folder, shard_name)).select(["sample_id", "prompt", "min_confidence"])
    return set(_pairs(table.filter(pc.fill_null(pc.less(table["min_confidence"], limit), False))))


def uncertain_shards(root: Storage, tick: Tick, limit: float) -> tuple[str, ...]:
    """Return those with at least one."""
    return tuple(e.shard.name for e in tick.shards if uncertain(root, tick, e.shard.name, limit))


def relabel_config(config: VqaConfig, tick: Tick) -> JobConfig:
    """Return the job at full depth."""
    job = tick_config(config, tick)
    path = f"{config.output.path.rstrip('/')}/{tick.folder}/{RELABEL}"
    output = job.output.model_copy(update={"path": path})
    return job.model_copy(update={"engine": job.engine.at_full_depth(), "output": output})


@dataclass(frozen=True)
class RelabelReader(TickReader):
    """The tick's source with everything left out but its uncertain answers."""

    limit: float = 0.0

    @classmethod
    def over(
        cls,
        config: VqaConfig,
        root: Storage,
        tick: Tick,
        shards: Sequence[str],
        limit: float,
        max_prompt_tokens: int = 0,
    ) -> "RelabelReader":
        some = replace(tick, shards=tuple(entry for entry in tick.shards if entry.shard.name in shards))
        of = TickReader.of(config, root, some, max_prompt_tokens)
        return cls(of.base, of.root, of.tick, of.id_column, of.needs_fields, of.patience, of.limits, limit)

    def index(self, shard: Shard) -> Contents:
        """Uncertain answers that the shard no longer lists are told by its problems, in relabel/errors, and stay."""
        contents, kept = self.base.index(shard), list[Sample]()
        pairs = uncertain(self.root, self.tick, shard.name, self.limit)
        for sample, identity, prompts in self.asked(shard, contents.samples):
            again = [number for number, prompt in enumerate(prompts) if (identity, prompt) in pairs]
            if again:
                kept.append(with_prompts(sample, len(kept), again))
                pairs -= {(identity, prompts[number]) for number in again}
        return Contents(tuple(kept), contents.problems if pairs else ())


def save_changes(root: Storage, tick: Tick, shards: Sequence[str], limit: float) -> Changes:
    """Compare both answers of every uncertain row. The run at full depth is complete, and nothing is replaced yet."""
    counts = [0, 0, 0]
    for name in shards:
        before, again = _before(root, tick, name), _again(root, tick, name)
        texts = zip(before["text"].to_pylist(), replaced(before, again)["text"].to_pylist(), strict=True)
        found = (len(uncertain(root, tick, name, limit)), again.num_rows, sum(a != b for a, b in texts))
        counts = [total + more for total, more in zip(counts, found, strict=True)]
    changes = Changes(limit, tuple(shards), *counts)
    root.write(f"{tick.folder}/{RELABEL}/{CHANGES_NAME}", _json(changes))
    return changes


def replace_answers(root: Storage, tick: Tick, changes: Changes) -> None:
    """Put the new answers in place and close the tick for good."""
    for name in changes.shards:
        before = _before(root, tick, name)
        replace_results(root, _results(tick.folder, name), before, replaced(before, _again(root, tick, name)))
    root.write(f"{tick.folder}/{DONE_NAME}", _json(changes))


def replaced(before: pa.Table, again: pa.Table) -> pa.Table:
    """`before`, with what was said taken from the row of `again` that has the same sample and prompt, if any."""
    place = {pair: before.num_rows + row for row, pair in enumerate(_pairs(again))}
    said = pa.concat_tables([before.select(ANSWER), again.select(ANSWER).cast(before.select(ANSWER).schema)])
    said = said.take([place.get(pair, row) for row, pair in enumerate(_pairs(before))])
    columns = [said[name] if name in ANSWER else before[name] for name in before.column_names]
    return pa.table(columns, schema=before.schema)


def _before(root: Storage, tick: Tick, shard_name: str) -> pa.Table:
    return with_columns_of(results_schema(), root.read_table(_results(tick.folder, shard_name)))


def _again(root: Storage, tick: Tick, shard_name: str) -> pa.Table:
    again = root.read_table(_results(f"{tick.folder}/{RELABEL}", shard_name))
    return with_columns_of(results_schema(), again)


def _results(folder: str, shard_name: str) -> str:
    return f"{folder}/{published_name(RESULTS, shard_name)}"


def _pairs(table: pa.Table) -> list[Pair]:
    return list(zip(table["sample_id"].to_pylist(), table["prompt"].to_pylist(), strict=True))


def _json(changes: Changes) -> bytes:
    return json.dumps(asdict(changes), indent=2).encode()
