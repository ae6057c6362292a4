"""What is counted, and that the dashboard asks for what is exported, by its names and its tags."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from actors.engine.stats import EngineStats
from conf.schema import CostConfig
from pipeline.driver import Progress
from pipeline.ops.prometheus import METRICS, DriverMeter, EngineMeter, Series

DASHBOARD = Path(__file__).parents[3] / "conf" / "grafana" / "deed.json"
EXPORTED = {
    f"ray_{name}_total" if kind == "counter" else f"ray_{name}": {"run", *tags}
    for name, (kind, tags, _) in METRICS.items()
}


class Recorder:
    """Stands for Ray: series -> value, by name and tags. Refuses tags that were not declared, as Ray does."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def metric(self, name: str) -> "Recorder.Metric":
        return Recorder.Metric(self, name)

    class Metric:
        def __init__(self, recorder: "Recorder", name: str) -> None:
            self._recorder, self._name = recorder, name

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0
            self.set(self._recorder.values.get(self._key(tags), 0) + value, tags)

        def set(self, value: float, tags: dict[str, str]) -> None:
            self._recorder.values[self._key(tags)] = value

        def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
            assert tags.keys() == {"run", *METRICS[self._name][1]}
            assert tags["run"] == "out"
            return (self._name, *(value for key, value in tags.items() if key != "run"))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def window(**others: Any) -> EngineStats:
    counters = {"num_steps": 3, "num_completed": 2, "segment_positions": (9, 4), "segment_s": (0.5, 0.25)}
    times = {"start_s": 10.0, "end_s": 14.0, "busy_s": 3.0, "encode_s": 1.0, "decode_s": 1.5, "gate_s": 0.5}
    fields = {"host_s": 0.0, "num_tokens": 7, "occupancy": 0.5, "kv_cache_bytes": 1}
    segments = {"segment_visits": (3, 1), "segment_rows": (7, 2)}
    return EngineStats(**{**counters, **times, **fields, **segments, **others})


def test_an_engine_counts_what_it_does(recorder: Recorder) -> None:
    meter = EngineMeter("out", "a", Series("out", recorder.metric))
    summary = {"num_rows": 8, "num_errors": 2, "num_layers_run": 30, "num_steps": 20}
    meter.chunk({**summary, "error_types": json.dumps({"read/no_prompt": 2})})
    meter.chunk({**summary, "num_errors": 0, "error_types": "{}"})
    meter.window(window())
    meter.window(window(occupancy=0.75))
    assert recorder.values == {
        ("deed_rows", "ok"): 14,
        ("deed_rows", "error"): 2,
        ("deed_error_rows", "read/no_prompt"): 2,
        ("deed_layers",): 60,
        ("deed_tokens",): 40,
        ("deed_segment_visits", "1"): 6,
        ("deed_segment_visits", "2"): 2,
        ("deed_segment_rows", "1"): 14,
        ("deed_segment_rows", "2"): 4,
        ("deed_engine_seconds", "encode"): 2,
        ("deed_engine_seconds", "decode"): 3,
        ("deed_engine_seconds", "gate"): 1,
        ("deed_engine_seconds", "idle"): 2,
        ("deed_slots_in_use", "a"): 0.75,
    }


def test_the_driver_says_where_the_run_is(recorder: Recorder) -> None:
    now_s, heard = [0.0], []
    cost = CostConfig(price_per_hour=36.0, currency="EUR")
    series = Series("out", recorder.metric)
    meter = DriverMeter("out", cost, then=heard.append, series=series, clock=lambda: now_s[0])
    now_s[0] = 50.0
    progress = Progress(120, 3, None, None, 24.5, 0.25, None, 1, 4)
    meter(progress)
    assert heard == [progress]
    assert recorder.values == {  # what is unknown is not there
        ("deed_images_per_second",): 24.5,
        ("deed_progress",): 0.25,
        ("deed_shards", "published"): 1,
        ("deed_shards", "all"): 4,
        ("deed_cost", "EUR"): pytest.approx(0.5),
    }


def test_without_ray_nothing_is_exported() -> None:
    EngineMeter("out", "a").window(window())


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    named = {name for expression in expressions() for name in re.findall(r"ray_\w+", expression)}
    assert named == EXPORTED.keys()
    variable = json.loads(DASHBOARD.read_text())["templating"]["list"][1]["query"]
    assert set(re.findall(r"ray_\w+", variable)) <= EXPORTED.keys()


@pytest.mark.parametrize("expression", expressions())
def test_the_dashboard_groups_by_tags_that_exist(expression: str) -> None:
    for name in re.findall(r"ray_\w+", expression):
        for tags in re.findall(r"by \((\w+)\)", expression):
            assert tags in EXPORTED[name]
    rated = set(re.findall(r"rate\((\w+)", expression))
    assert rated == {name for name in re.findall(r"ray_\w+", expression) if name.endswith("_total")}, (
        "rates are of counters"
    )


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
