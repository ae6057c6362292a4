"""`deed status OUTPUT`: how far a running, dead or finished run is, and what to do next; reads its output alone."""

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.output.status import RunStatus
    from pipeline.source.plan import LeftOut


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed status", description=__doc__)
    parser.add_argument("output", metavar="OUTPUT", help="the output.path of a run, a folder or URL")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    options = parser.parse_args(arguments)

    from dataclasses import asdict

    from pipeline.output.status import next_step, read_status

    status = read_status(options.output)
    if options.json:
        print(json.dumps({**asdict(status), "next": next_step(status)}, indent=2))
    else:
        print("\n".join(describe(status)))
    return 0


def describe(status: "RunStatus") -> list[str]:
    from pipeline.output.status import next_step

    lines = [f"{status.output}: {status.state}" + (f" ({status.message})" if status.message else "")]
    if status.owner is not None:
        who = f"process {status.owner.pid} on {status.owner.host}"
        lines.append(
            f"  lease     {who}, last sign of life {max(0.0, status.owner.age_s):.0f} s ago"
            + ("" if status.owner.alive else ", dead")
        )
    elif status.last_seen_utc is not None:
        lines.append(f"  lease     none, last seen {status.last_seen_utc}")
    lines.append(
        f"  shards    {status.shards_published:,} of {status.shards:,} published, {status.shards_started:,} begun "
        f"({status.chunks_staged:,} chunks, {status.samples_staged:,} samples staged), {status.shards_open:,} open"
    )
    if status.shards_missing:
        lines.append(f"            {status.shards_missing:>8,} of them missing: planned, and gone when they were read")
    lines.append(f"  rows      {status.rows_ok:,} results, {status.rows_error:,} errors in the published shards")
    for name, count in status.errors_by_type.items():
        lines.append(f"            {count:>8,} x {name}")
    lines.extend(left_out_lines(status.left_out))
    lines.append(f"  next      {next_step(status)}")
    return lines


def left_out_lines(parts: "Iterable[LeftOut]") -> list[str]:
    """Of `deed status` and `deed plan`: one for each reason."""
    from pipeline.source.left_out import in_words

    return [f"  {'' if n else 'left out':<10}{in_words(part)}" for n, part in enumerate(parts)]
