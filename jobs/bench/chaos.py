"""`deed bench chaos`: a run whose processes are killed at random, and whose storage fails, until the time is over.

Ray runs as a head and a worker node on this machine. Again and again one of these is killed with SIGKILL: the driver,
a captioning actor, any other Ray worker, the whole worker node. A run that ended is started again by the same command;
one that is complete is audited, and followed by one that retries its failed rows, overwrites it or begins elsewhere.
At the end every input row of every run must be in results or errors exactly once, with the right text. The last line of
stdout is one JSON object; the exit code is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_IMAGE_SIZE = 32
_VICTIMS = {"driver": 3, "actor": 4, "worker": 3, "node": 2}  # and how often each is chosen
_HANG_S = 300.0
_AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
_STARTS = 4
_NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the storm lasts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2000, help="images of each run (default: %(default)s)")
    parser.add_argument("--pause-s", type=float, default=8.0, help="longest between two kills (default: %(default)s)")
    parser.add_argument("--step-ms", type=float, default=200.0, help="time of one engine step (default: %(default)s)")
    parser.add_argument("--s3", action="store_true", help="put source and output on a failing S3 server (needs moto)")
    parser.add_argument("--folder", default="runs/bench-chaos", help="working folder, emptied first")
    options = parser.parse_args(arguments)
    folder = Path(options.folder).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    expected = make_corpus(folder / "in", options.rows, options.seed)
    with _object_store(folder, options.s3, options.seed) as root, _ray_cluster() as cluster:
        storm = Storm(folder, root, cluster, expected, options.seed, options.step_ms / 1000, options.pause_s)
        report = storm.rage(options.minutes)
    print(json.dumps(report))
    return 0 if not report["problems"] else 1


def make_corpus(folder: Path, num_rows: int, seed: int) -> dict[str, str | None]:
    """Write the shards; gives key -> text, or None where an error is due: broken files and rows that poison workers."""
    from jobs.bench.bench_shards import plain, write_shards
    from jobs.bench.null_engine import POISON_KILL, POISON_RAISE

    rng = random.Random(seed)
    num_shards = max(2, min(20, num_rows // 100))
    per_shard = num_rows // num_shards
    poison = {rng.randrange(num_shards * per_shard): POISON_KILL, rng.randrange(num_shards * per_shard): POISON_RAISE}
    broken = set(rng.sample(range(num_shards * per_shard), max(1, num_rows // 50))) - poison.keys()
    colours = {n: (n % 251, 7 * n % 251, 13 * n % 251) for n in range(num_shards * per_shard)}

    def image_of(number: int) -> bytes:
        return b"no image" if number in broken else plain(poison.get(number, colours[number]), _IMAGE_SIZE)

    write_shards(folder, num_shards, per_shard, image_of)
    return {
        f"{n:09d}": None if n in broken or n in poison else f"mean {int(sum(colour) / 3)}"
        for n, colour in colours.items()
    }


class Storm:
    """Keeps one job going and something dying."""

    def __init__(
        self,
        folder: Path,
        root: str,
        cluster: Any,
        expected: dict[str, str | None],
        seed: int,
        step_s: float,
        pause_s: float,
    ) -> None:
        self._folder, self._root, self._cluster, self._expected = folder, root, cluster, expected
        self._rng, self._step_s, self._pause_s = random.Random(seed), step_s, pause_s
        self._kills: Counter[str] = Counter()
        self._exits: Counter[int] = Counter()
        self._acts: Counter[str] = Counter()
        self._problems: list[str] = []
        self._rounds = 0
        self._pids = folder / "pids"
        self._log = (folder / "job.log").open("ab")

    def rage(self, minutes: float) -> dict[str, Any]:
        start_s = time.monotonic()
        deadline_s = start_s + 60 * minutes
        while True:
            self._one_output(deadline_s)
            if self._problems or time.monotonic() >= deadline_s:
                break
        return {
            "schema_version": 1,
            "minutes": round((time.monotonic() - start_s) / 60, 2),
            "complete_runs": self._rounds,
            "runs": dict(self._acts),
            "rows_of_each_run": len(self._expected),
            "kills": dict(self._kills),
            "num_kills": self._kills.total(),
            "job_exit_codes": {str(code): count for code, count in self._exits.items()},
            "problems": self._problems[:20],
        }

    def _one_output(self, deadline_s: float) -> None:
        """Run from an empty output to a complete one, perhaps once more; kill nothing once the time is over."""
        out = f"{self._root}/out-{self._rounds:04d}"
        if self._one_run(out, "resume", deadline_s) and time.monotonic() < deadline_s:
            self._one_run(out, self._rng.choice(["retry", "overwrite", "leave"]), deadline_s)

    def _one_run(self, out: str, act: str, deadline_s: float) -> bool:
        """Return whether a run came to its end and the output is right."""
        if act == "leave":
            return True
        shutil.rmtree(self._pids, ignore_errors=True)
        self._pids.mkdir(parents=True)
        job, quiet_since_s, failures = self._start(out, act), time.monotonic(), 0
        again = "resume" if act == "overwrite" else act  # what was begun anew is then continued
        while True:
            try:
                code = job.wait(timeout=self._rng.uniform(min(1.0, self._pause_s), self._pause_s))
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline_s:
                    self._kill(job)
                    quiet_since_s = time.monotonic()
                elif time.monotonic() - max(quiet_since_s, deadline_s) > _HANG_S:
                    job.kill()
                    self._problems.append(f"{out}: no end {_HANG_S:.0f} s after the last kill")
                    return False
                continue
            self._exits[code] += 1
            if code == 0:
                break
            failures = failures + 1 if time.monotonic() >= deadline_s else 0
            if failures > 5:
                self._problems.append(f"{out}: the job failed {failures} times in calm weather, see {self._log.name}")
                return False
            job = self._start(out, again)
        self._rounds += 1
        self._acts[act] += 1
        found = audit(out, self._expected)
        self._problems += found
        return not found

    def _start(self, out: str, act: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "jobs.bench.chaos_job", f"{self._root}/in", out, str(self._pids)]
        command += [str(self._step_s), str(_IMAGE_SIZE), act]
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def _kill(self, job: "subprocess.Popen[bytes]") -> None:
        victim = self._rng.choices(list(_VICTIMS), list(_VICTIMS.values()))[0]
        if victim == "driver":
            job.kill()
        elif victim == "node":
            for node in list(self._cluster.worker_nodes):
                self._cluster.remove_node(node, allow_graceful=False)
            add_node(self._cluster)
        else:
            actors = {int(path.name) for path in self._pids.iterdir()}
            workers = ray_workers(os.getpid())
            pids = sorted(workers & actors if victim == "actor" else workers - actors)
            if not pids:
                return
            try:
                os.kill(self._rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return
        self._kills[victim] += 1


def audit(out: str, expected: dict[str, str | None]) -> list[str]:
    """What is wrong with the output of a complete run, in words; nothing if every row is where it belongs, once."""
    from pipeline.output.ledger import RUN_NAME
    from pipeline.output.publish import ERRORS, RESULTS
    from pipeline.output.staging import STAGING
    from pipeline.output.storage import Storage, is_temporary

    storage, problems = Storage(out), []
    results: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for name in storage.names(RESULTS):
        for row in storage.read_table(f"{RESULTS}/{name}").select(["key", "text"]).to_pylist():
            results[row["key"]] += 1
            if row["text"] != expected.get(row["key"]):
                problems.append(f"{out}: {row['key']} has text {row['text']!r} instead of {expected.get(row['key'])!r}")
    for name in storage.names(ERRORS):
        errors.update(storage.read_table(f"{ERRORS}/{name}")["key"].to_pylist())
    for key, text in expected.items():
        found = (results[key], errors[key])
        if found != ((1, 0) if text is not None else (0, 1)):
            problems.append(f"{out}: {key} is {found[0]} times in results and {found[1]} times in errors")
    strangers = (results.keys() | errors.keys()) - expected.keys()
    problems += [f"{out}: {key} is no row of the source" for key in sorted(strangers)]
    left = [name for name in storage.walk("") if is_temporary(name) or name.startswith(STAGING)]
    problems += [f"{out}: {name} was left behind" for name in left]
    counts = json.loads(storage.read(RUN_NAME))["counts"]
    if counts["rows_read"] != len(expected) or counts["rows_ok"] + counts["rows_error"] != counts["rows_read"]:
        problems.append(f"{out}: counts do not reconcile: {counts}")
    return problems


def ray_workers(root_pid: int) -> set[int]:
    """Ray's worker processes below a process; not the agents of its nodes, with which a node lives and dies."""
    parents: dict[int, int] = {}
    workers: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            title = (entry / "cmdline").read_bytes()
            if title.startswith(b"ray::") and not title.startswith(_AGENTS):
                workers.add(int(entry.name))
        except OSError:
            continue

    def is_below(pid: int) -> bool:
        while pid > 1 and pid != root_pid:
            pid = parents.get(pid, 0)
        return pid == root_pid

    return {pid for pid in workers if is_below(pid)}


def add_node(cluster: Any) -> None:
    """Start another worker node; if it does not come up in time, the head does the work alone."""
    try:
        cluster.add_node(**_NODE)
    except Exception as error:
        print(f"a worker node did not start: {error}", file=sys.stderr)


@contextmanager
def _ray_cluster() -> Iterator[Any]:
    """Start two nodes of two CPUs; the job finds them by RAY_ADDRESS."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "100000")  # a raylet gives up sooner on a busy machine
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for attempt in range(1, _STARTS + 1):  # on a busy machine a node may miss Ray's half minute
        try:
            cluster.add_node(**_NODE, include_dashboard=False)
            break
        except Exception:
            if attempt == _STARTS:
                raise
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        add_node(cluster)
        yield cluster
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before
        cluster.shutdown()


@contextmanager
def _object_store(folder: Path, wanted: bool, seed: int) -> Iterator[str]:
    """Where source and outputs are: the folder, or a bucket behind a proxy that lets a tenth of the requests fail."""
    if not wanted:
        yield str(folder)
        return
    from jobs.bench.faults import Faults
    from jobs.bench.s3 import s3_server

    share = 0.025
    with s3_server(Faults(seed, 0.05, share, share, share, share)) as server:
        server.direct.put(str(folder / "in"), "bench/in", recursive=True)
        yield "s3://bench"
