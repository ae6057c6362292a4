"""`deed submit -- COMMAND ..`: run a deed command on a Ray cluster, show its output here, and end with its exit code.

`ray job submit` does the same but ends with 0 or 1 (and 0 for a job that was stopped); schedulers want to know more.
"""

import argparse
import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

EXCLUDES = ("/.git", "/.venv", "/data", "/runs")  # beside those of .gitignore and .rayignore
FAILED, INTERRUPTED, STOPPED = 1, 130, 143
_POLL_S = 1.0


def main(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    entrypoint = make_entrypoint(command)
    if not Path(options.working_dir).is_dir():
        raise UserError(f"--working-dir {options.working_dir!r} is not a folder")
    client = connect(options.address)
    runtime_env = {"working_dir": options.working_dir, "excludes": list(EXCLUDES)}
    try:
        job = client.submit_job(entrypoint=entrypoint, submission_id=options.submission_id, runtime_env=runtime_env)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the cluster did not take the job: {_last_line(error)}") from None
    print(f"deed submit: {job} runs on {client.get_address()}: {entrypoint}", file=sys.stderr)
    if options.no_wait:
        return 0
    try:
        follow(client, job)
    except KeyboardInterrupt:
        print(f"deed submit: {job} goes on; `ray job stop {job}` ends it", file=sys.stderr)
        return INTERRUPTED
    return finish(client.get_job_info(job))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deed submit", description=__doc__)
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS"),
        help="the cluster's dashboard, http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)",
    )
    parser.add_argument("--working-dir", default=".", metavar="FOLDER", help="what is uploaded (default: this folder)")
    parser.add_argument("--submission-id", metavar="NAME", help="a name for the job (default: Ray makes one up)")
    parser.add_argument("--no-wait", action="store_true", help="end as soon as the cluster has taken the job")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND ..", help="as after `deed`: caption --config .."
    )
    return parser


def make_entrypoint(command: Sequence[str]) -> str:
    """Return the shell line the cluster runs in the uploaded folder; UserError if it is no deed command."""
    from jobs.cli import COMMANDS

    if not command or command[0] not in COMMANDS or command[0] == "submit":
        shown = repr(command[0]) if command else "nothing"
        raise UserError(
            f"after -- comes a deed command, for example -- caption --config conf/caption.yaml, got {shown}"
        )
    return shlex.join(["python", "-m", "jobs.cli", *command])


def connect(address: str | None) -> "JobSubmissionClient":
    if address is None:
        raise UserError("name the cluster, for example --address http://127.0.0.1:8265, or set RAY_API_SERVER_ADDRESS")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # it tells of every ignored file
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise UserError(
            f"{address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the "
            "cluster's token"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot talk to a Ray dashboard at {address}: {_last_line(error)}") from None


def follow(client: "JobSubmissionClient", job: str) -> None:
    """Print what the job writes until it has ended; when the connection breaks, go on waiting without."""
    try:
        asyncio.run(_print_log(client, job))
    except (OSError, RuntimeError) as error:
        print(f"deed submit: its output is no longer shown ({_last_line(error)}), waiting for it", file=sys.stderr)
    while not client.get_job_status(job).is_terminal():
        time.sleep(_POLL_S)


async def _print_log(client: "JobSubmissionClient", job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def finish(info: "JobDetails") -> int:
    """Return the exit code of the command on the cluster; 143 if it was stopped, 1 if it never ran."""
    from ray.job_submission import JobStatus

    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        print(
            "deed submit: the job was stopped; the same command continues unless it overwrites",
            file=sys.stderr,
        )
        return STOPPED
    code = info.driver_exit_code
    if not code:
        print(f"deed submit: the job did not run: {info.message}", file=sys.stderr)
        return FAILED
    return code if code > 0 else 128 - code  # a signal's number, negative, as shells show it


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
