"""Where a run takes its output up: what is there, whether it may be continued, and what is left to do.

It is decided twice. Early, so that mistakes are told before Ray starts, and once more under the lease, because another
run may have had the output in between: only what is decided under the lease is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.output import incarnation
from pipeline.output.ending import FINISHED, Status
from pipeline.output.ledger import check_plan, clear_output, save_plan, with_planned
from pipeline.output.output import Output
from pipeline.output.second_chance import open_again, shards_to_retry
from pipeline.output.settings import check_settings, save_settings
from pipeline.output.staging import STAGING
from pipeline.output.storage import Storage
from pipeline.source import left_out
from pipeline.source.passthrough import settle
from pipeline.source.plan import Listing, Shard
from pipeline.source.readers import Reader


@dataclass(frozen=True, slots=True)
class Decision:
    """What a run is to do. `finished`: the content of run.json if that is nothing."""

    storage: Storage  # of the incarnation that is there
    overwrite: bool
    known: dict[str, Shard]  # those the output was begun with
    listing: Listing
    retried: list[Shard]  # published, to be opened again
    finished: dict[str, Any] | None

    @property
    def is_new(self) -> bool:
        """Whether no run has begun this output."""
        return self.overwrite or not Output(self.storage).is_begun

    @property
    def shards(self) -> tuple[Shard, ...]:
        return with_planned(self.known, self.listing.shards)


def decide(
    output: Storage, config: JobConfig, settings: Mapping[str, Any], reader: Reader, early: Decision | None = None
) -> Decision:
    """Look at the output and list the source; UserError if they do not go together. Changes nothing.

    `early`: what was decided before; its listing holds while the output has the same names for its shards.
    """
    there, overwrite = Output.at(output), config.output.on_existing == "overwrite"
    storage, known = there.storage, {} if overwrite else there.planned()
    listing = early.listing if early is not None and early.known == known else reader.shards(known.values())
    if overwrite:
        return Decision(storage, overwrite, known, listing, [], None)
    if config.output.on_existing == "fail" and there.is_begun:
        raise UserError(f"output {storage.url!r} holds a run already and output.on_existing=fail")
    check_settings(storage, settings)
    if early is None or listing is not early.listing:
        check_plan(known, listing)  # which also says what has changed, once
    shards = with_planned(known, listing.shards)
    retried = shards_to_retry(storage, shards, config.output.retry_errors)
    finished = None if retried else finished_record(there, shards)
    return Decision(storage, overwrite, known, listing, retried, finished)


@dataclass(frozen=True, slots=True)
class Begun:
    """An output that is ready for its run. `warnings`: what a retry had to leave as it was."""

    storage: Storage
    passthrough: tuple[pa.Field, ...]
    warnings: list[str]


def begin(decision: Decision, config: JobConfig, settings: Mapping[str, Any], reader: Reader) -> Begun:
    """Prepare the output for what was decided under the lease."""
    storage = decision.storage
    if decision.is_new:
        storage = incarnation.renew(storage)
    if decision.overwrite:
        clear_output(storage)
    passthrough = settle(storage, reader, config.source, decision.shards, begun=Output(storage).is_begun)
    save_settings(storage, settings)
    save_plan(storage, decision.known, decision.shards)
    left_out.save_listing(storage, decision.listing.left_out)
    which, source = config.output.retry_errors, config.source
    left = open_again(storage, reader, decision.retried, which, source.chunk_rows, passthrough, source.retry)
    return Begun(storage, passthrough, left)


def finished_record(output: Output, shards: Sequence[Shard]) -> dict[str, Any] | None:
    """The content of run.json if it closed a run over at least these shards; None if there is anything left to do."""
    record = output.record()
    if record is None or record["status"] not in FINISHED or output.storage.walk(STAGING):
        return None
    if not {shard.name for shard in shards} <= output.published():
        return None
    if record["status"] == Status.NOTHING_SUCCEEDED.value and record["counts"]["rows_ok"]:
        # It was an earlier invocation, over some of the shards, in which no row succeeded; now nothing was to do.
        return {**record, "status": Status.COMPLETE.value, "message": None}
    return record
