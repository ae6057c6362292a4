"""An S3-compatible server on loopback (moto: starts in a second, knows conditional PUTs) behind a proxy with faults."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conf.errors import UserError
from jobs.bench.faults import Faults, faulty_proxy

BUCKET = "bench"


@dataclass(frozen=True)
class Server:
    """`faults` are between the job and the server; `direct` is an fsspec filesystem that reaches it without them."""

    faults: Faults
    direct: Any
    url: str = f"s3://{BUCKET}"


@contextmanager
def s3_server(faults: Faults) -> Iterator[Server]:
    """Point the environment of this process, and of those it starts, to the proxy while the context lasts."""
    try:
        import moto.server  # noqa: F401
        import s3fs
    except ImportError:
        raise UserError("an S3 server for benches needs the dev extra: pip install deed-pipeline[dev]") from None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    try:
        with faulty_proxy(("127.0.0.1", port), faults) as proxy:
            os.environ.update(environment(proxy))
            _wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
            direct = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True)
            direct.mkdir(BUCKET)
            yield Server(faults, direct)
    finally:
        process.kill()
        process.wait()
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def _wait_for(url: str, process: "subprocess.Popen[Any]") -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
