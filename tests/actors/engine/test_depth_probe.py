"""Probes of full depth: rare, without a trace in what is said, and right about the time full depth takes."""

import pytest

from actors.engine import depth_probe
from actors.engine.depth_probe import DepthProbe
from actors.engine.engine import Engine
from actors.engine.executor import EagerExecutor
from actors.engine.separate_layers import SeparateLayers
from actors.model.decoder import MultiExitDecoder
from tests.actors.engine.tiny import config, requests, run, tiny_model

MODEL = tiny_model()
EARLY = {"exits": (1, 3, 5), "thresholds": (0.3, 0.4)}
PENALTY = {"max_new_tokens": 16, "repetition_penalty": 1.3}


@pytest.fixture
def every_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_probe, "FIRST_VISIT", 1)
    monkeypatch.setattr(depth_probe, "SHARE", 1e9)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"cross": "absorbed"},
        {"cross": "projected"},
        {"kv": "copy"},
        {"kv": "project"},
        {"lossless": True},
        {"lossless": True, "generation": PENALTY},
        {"generation": PENALTY},
        {"gate": "shortlist"},
        {"gate": "saturation"},
        {"schedule": "inplace"},
        {"schedule": "consensus"},
    ],
    ids=str,
)
def test_a_probe_leaves_no_trace(every_visit: None, values: dict[str, object]) -> None:
    work = requests(10, 1)
    said = []
    for calibration_s in (1e9, 0):
        engine = Engine(MODEL, config(**{**EARLY, **values}, calibration_s=calibration_s))
        done = run(engine, work)
        said.append({i: (c.token_ids, c.exit_layers, c.confidences) for i, c in done.items()})
        assert (engine.take_stats().full_depth_s is not None) is bool(calibration_s)
    assert said[0] == said[1]


@pytest.mark.parametrize("schedule", ["pool", "inplace"])
def test_the_estimate_is_what_full_depth_takes(
    every_visit: None, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """By a clock that goes on with every layer and every exit."""
    now_s = [0.0]

    def costly(owner: type, name: str, seconds: float) -> None:
        method = getattr(owner, name)

        def timed(*args: object) -> object:
            now_s[0] += seconds
            return method(*args)

        monkeypatch.setattr(owner, name, timed)

    costly(SeparateLayers, "run", 1.0)
    costly(SeparateLayers, "run_current", 1.0)
    costly(MultiExitDecoder, "exit_logits", 0.5)
    stats = {}
    for name, values in (("early", {"schedule": schedule}), ("full", {"schedule": "full"})):
        settings = config(**EARLY, **values, calibration_s=1e9)
        engine = Engine(MODEL, settings, clock=lambda: now_s[0])
        run(engine, requests(1, 1))
        stats[name] = engine.take_stats()
    early, full = stats["early"], stats["full"]
    assert full.full_depth_s is None
    assert early.full_depth_s == pytest.approx(sum(full.segment_s))
    assert sum(early.segment_s) < early.full_depth_s
    # The probes' own time is work of the decoder, but of none of the visits that are counted.
    assert early.busy_s == pytest.approx(early.encode_s + early.decode_s + early.gate_s + early.host_s)
    assert early.busy_s == pytest.approx(sum(early.segment_s) + sum(full.segment_s))


def test_where_nothing_can_leave_early_nothing_is_probed(monkeypatch: pytest.MonkeyPatch, every_visit: None) -> None:
    monkeypatch.setattr(EagerExecutor, "probe", lambda *_: pytest.fail("probed"))
    unreachable = {"thresholds": (1.01, 1.01)}
    for values in ({"schedule": "full"}, unreachable, {"calibration_s": 0}):
        engine = Engine(MODEL, config(**{"calibration_s": 1e9, **EARLY, **values}))
        run(engine, requests(3))
        assert engine.take_stats().full_depth_s is None


def test_probes_are_rare_and_bounded() -> None:
    probe, probed_s = DepthProbe(limit_s=1.001), []
    for visit in range(100_000):
        due = probe.due()
        if due:
            probed_s.append(visit)
        probe.worked(0.01 + 0.05 * due)
        probe.visited(0.01, 0.008, 0.05 * due)
    assert probed_s[0] == depth_probe.FIRST_VISIT - 1
    assert len(probed_s) == 20  # limit_s is spent
    assert all(0.05 * (i + 1) <= 0.01 * 0.01 * (visit + 10 * i) for i, visit in enumerate(probed_s) if i)
    assert probe.ratio == pytest.approx((0.01 - 0.008 + 0.05) / 0.01)


def test_one_disturbed_probe_says_little() -> None:
    probe = DepthProbe(limit_s=1e9)
    assert probe.ratio is None
    for probe_s in (0.05, 5.0, 0.05):
        probe.visited(0.01, 0.01, probe_s)
    assert probe.ratio == pytest.approx(5.0)
