"""A real Ray cluster on this machine: each node a `ray start` with ports, token and temporary folder of ours."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

from pipeline.ops.cluster import ray_cluster
from tests.integration.processes import kill_tree

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_START_S = 60


@dataclass
class RayNodes:
    """The cluster under test; `address` is what `ray job submit` and `deed submit` take."""

    folder: Path
    gcs_port: int
    dashboard_port: int
    nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """For the nodes and for whoever talks to them. Without PYTHONPATH: jobs run what was uploaded."""
        ours = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000",  # a dead node is found in seconds, not in half a minute
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_timeout_ms": "4000",
            "RAY_health_check_failure_threshold": "3",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("RAY_")}
        return {**inherited, **ours}

    def start_node(self, num_cpus: int, *, head: bool = False) -> "subprocess.Popen[bytes]":
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}"]
        command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={200 << 20}"]
        command += [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
        if head:
            command += ["--head", f"--port={self.gcs_port}", f"--temp-dir={self.folder}"]
            command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"]
            command += [f"--ray-client-server-port={free_port()}"]
        else:
            command += [f"--address=127.0.0.1:{self.gcs_port}"]
        with open(self.folder / f"node-{len(self.nodes)}.log", "wb") as log:
            node = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(node)
        return node

    def kill_node(self, number: int) -> None:
        kill_tree(self.nodes[number].pid)
        self.nodes[number].wait()

    def run(self, *command: str, timeout_s: float = 150) -> "subprocess.CompletedProcess[str]":
        """A command of a user beside the cluster, in the project's folder, with the cluster's token."""
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, text=True, capture_output=True, timeout=timeout_s, check=False
        )

    def wait_for_nodes(self, count: int) -> None:
        wait_until(lambda: self._num_alive() == count, _START_S, f"{count} nodes", self.logs)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("node-*.log")))

    def head_answers(self) -> bool:
        assert self.nodes[0].poll() is None, self.logs()
        return answers(self.gcs_port) and answers(self.dashboard_port)

    def _num_alive(self) -> int:
        token = (self.folder / "token").read_text()
        ask = Request(f"{self.address}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"})
        with urlopen(ask, timeout=30) as answer:
            nodes = json.load(answer)["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


@contextmanager
def fresh_ray() -> Iterator[None]:
    """A local Ray started with the environment and the folder as they are now; the one that tests share has ended."""
    import ray

    ray.shutdown()
    with ray_cluster():
        yield


@contextmanager
def ray_nodes(*num_cpus: int) -> Iterator[RayNodes]:
    """A head and workers with so many logical CPUs each; all their processes are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets below it have names of at most 107 bytes
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    cluster = RayNodes(folder, free_port(), free_port())
    try:
        for number, cpus in enumerate(num_cpus):
            cluster.start_node(cpus, head=number == 0)
            if number == 0:
                wait_until(cluster.head_answers, _START_S, "the head", cluster.logs)
        cluster.wait_for_nodes(len(num_cpus))
        yield cluster
    finally:
        for number in range(len(cluster.nodes)):
            cluster.kill_node(number)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition, timeout_s: float, what: str, details=lambda: "") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}\n{details()}"
        time.sleep(0.2)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
