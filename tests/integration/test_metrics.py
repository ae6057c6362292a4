"""What Prometheus would scrape from a real Ray after a run, under the names that the dashboard uses."""

import re
import time
import urllib.request
from pathlib import Path

import pytest

from jobs.caption import run_job
from tests.integration.corpus import fake_spec, make_config
from tests.integration.ray_nodes import fresh_ray
from tests.shards import sample_members, write_tar

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def scraped(url: str, wanted: set[str], timeout_s: float = 60.0) -> dict[str, float]:
    """Series -> value, once all that are wanted are there and the driver's are those of the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        found: dict[str, float] = {}
        for name, labels, value in re.findall(r"^(ray_deed_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = name + "".join(
                f"|{tags[tag]}" for tag in ("outcome", "error_type", "state", "currency") if tag in tags
            )
            found[key] = found.get(key, 0) + float(value)
        if wanted <= found.keys() and found["ray_deed_progress"] == 1:
            return found
        assert time.monotonic() < deadline, f"{sorted(wanted - found.keys())} did not come, {sorted(found)} did"
        time.sleep(0.5)


def test_a_run_is_seen_by_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    members = [member for n in range(20) for member in sample_members(n)]
    write_tar(tmp_path / "in" / "s.tar", [*members, ("broken.jpg", b"")])
    config = make_config(tmp_path, cost={"price_per_hour": 3600.0, "currency": "EUR"})
    with fresh_ray():
        import ray

        assert run_job(config, fake_spec)[0] == 0
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        driver = {"ray_deed_progress", "ray_deed_cost|EUR", "ray_deed_shards|all"}
        actor = {"ray_deed_rows_total|ok", "ray_deed_error_rows_total|preprocess/empty_image"}
        series = scraped(url, driver | actor)
    assert series["ray_deed_cost|EUR"] > 0
    assert (series["ray_deed_rows_total|ok"], series["ray_deed_rows_total|error"]) == (20, 1)
