"""Texts to learn from where a source has no labels: of runs that are named, or that deed train makes beforehand.

A run that it makes is one of deed caption at full depth, over the shards that training uses: on the same cluster, as
resumable, and left alone once it is complete.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.training.rows.target_runs import finished_record, known_shards
from conf.errors import OtherOutput, UserError
from conf.pretrained import PretrainedConfig
from conf.source import PromptConfig

if TYPE_CHECKING:
    from conf.schema import JobConfig
    from pipeline.source.plan import Shard

_COMMAND = "deed train"


class TextsStopped(Exception):
    """The run that writes the texts ended without them, and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def own_runs(config: PretrainedConfig) -> tuple[str | None, ...]:
    """Return, for each of `config.all_tasks`, the output of the run whose texts it learns; None where it has labels.

    Runs that are missing are made now. UserError where a run that is named, or that was begun here, is of something
    else; TextsStopped where one that is made now does not come to its end.
    """
    runs: list[str | None] = [None if task.target.has_labels else task.target.run for task in config.all_tasks]
    _check_named(config, runs)
    missing = [
        number for number, task in enumerate(config.all_tasks) if not task.target.has_labels and runs[number] is None
    ]
    if missing:
        named = list(runs)
        for number in missing:
            runs[number] = f"{config.output.rstrip('/')}/targets" + (f"-{number}" if number else "")
        shards = _shards_to_caption(config, [runs[number] for number in missing], named)
        for number in missing:
            _make(_texts_job(config, number, str(runs[number])), shards)
    return tuple(runs)


def _check_named(config: PretrainedConfig, runs: Sequence[str | None]) -> None:
    """Raise UserError for a run that has not ended, has asked something else, or was over another source."""
    from pipeline.output.ledger import check_plan
    from pipeline.source.readers import make_reader

    named = [(task, run) for task, run in zip(config.all_tasks, runs, strict=True) if run is not None]
    if not named:
        return
    for task, run in named:
        source = (finished_record(run).get("config") or {}).get("source") or {}
        _check_asked(run, source.get("prompt") or {}, task.prompt)
        if source.get("kind") != config.source.kind.value:
            raise UserError(f"target.run {run!r} read a source of kind {source.get('kind')}, not {_what(config)}")
    listing = make_reader(config.source).shards(known_shards(runs))
    there = {shard.name for shard in listing.shards}
    for _, run in named:
        planned = {shard.name: shard for shard in known_shards([run])}
        if not planned.keys() & there:
            raise UserError(f"target.run {run!r} read other shards than those of {_what(config)}")
        try:
            check_plan(planned, listing)
        except OtherOutput as error:
            raise UserError(f"target.run {run!r}: {error.why}; run deed caption over it as it is now") from None


def _check_asked(run: str, then: dict[str, Any], now: PromptConfig) -> None:
    for name in ("template", "list_field", "words_field"):
        if then.get(name) != getattr(now, name):
            raise UserError(
                f"target.run {run!r} asked something else: source.prompt.{name} was {then.get(name)!r} there and is "
                f"{getattr(now, name)!r} here"
            )


def _what(config: PretrainedConfig) -> str:
    return f"{', '.join(config.source.paths)} ({config.source.kind.value})"


def _shards_to_caption(
    config: PretrainedConfig, own: Sequence[str | None], named: Sequence[str | None]
) -> "tuple[Shard, ...]":
    """Return the shards that training uses; once a run is begun, they stay what they are."""
    from actors.training.rows.row_source import RowSource
    from conf.checkpoint_files import read_model_config

    return known_shards(own) or tuple(
        RowSource(config, read_model_config(config.checkpoint).plan, known_shards(named)).shards
    )


def _texts_job(config: PretrainedConfig, number: int, output: str) -> "JobConfig":
    """Return the job that asks a task's prompt of the checkpoint at full depth."""
    from conf.checkpoint_files import read_model_config
    from conf.engine import EngineConfig, GenerationConfig, Schedule
    from conf.schema import JobConfig, ModelSection, OutputConfig
    from jobs.shared.converted_checkpoint import with_room_for_outputs

    model = read_model_config(config.checkpoint)
    generation = GenerationConfig(max_new_tokens=config.max_new_tokens, decoder_prefix=config.decoder_prefix)
    engine = EngineConfig(
        num_slots=config.num_slots, schedule=Schedule.FULL, generation=generation,
        exits=(model.decoder.num_layers,), thresholds=(),  # calibrating the others changes nothing here
    )  # fmt: skip
    return JobConfig(
        source=config.source.model_copy(update={"prompt": config.all_tasks[number].prompt}),
        preprocess=config.preprocess,
        model=ModelSection(checkpoint=config.checkpoint, device=config.device),
        engine=with_room_for_outputs(engine, model, config.checkpoint),
        output=OutputConfig(path=output),
    )


def _make(job: "JobConfig", shards: "tuple[Shard, ...]") -> None:
    """Bring a run to its end; nothing is done where it is there."""
    from jobs.caption import run_job
    from pipeline.output.ending import Status
    from pipeline.output.output import Output
    from pipeline.output.storage import Storage
    from pipeline.preflight import check_fields
    from pipeline.source.readers import make_reader
    from pipeline.source.readers.given_shards import GivenShards

    output, reader = job.output.path, GivenShards(make_reader(job.source), shards)
    if not Output.at(Storage(output)).is_begun:
        check_fields(reader, job.source, shards)
    try:
        code, record = run_job(job, reader=reader, command=_COMMAND)
    except OtherOutput as error:
        raise UserError(f"{error.why}; name another --out, or delete {output!r} to have texts written anew") from None
    if record is None:
        raise TextsStopped(code)
    if record["status"] == Status.NOTHING_SUCCEEDED.value:
        print(f"{_COMMAND}: there is nothing to learn; to have it tried again delete {output!r}", file=sys.stderr)
        raise TextsStopped(code)
    counts = record["counts"]
    failed = f"; {counts['rows_error']:,} rows failed and are not learned" if counts["rows_error"] else ""
    print(f"{counts['rows_ok']:,} texts to learn from: {output}{failed}", flush=True)
