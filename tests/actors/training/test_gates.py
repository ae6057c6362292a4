"""Gates as predictors: areas and curves on small cases, and confidences as the engine itself has them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from actors.model.model import MultiExitModel
from actors.training.exits.asked import Asked, ask, targets_of
from actors.training.exits.measure import leaving_at
from actors.training.exits.work import Texts
from actors.training.gates.prediction import (
    auroc,
    best_risk_coverage,
    leaving,
    leaving_at_risk,
    leaving_at_the_first_right,
    risk_coverage,
)
from actors.training.gates.recording import gates_of, record_gates
from actors.training.rows.row_source import RowSource
from actors.training.thresholds import Recording
from conf.engine import EngineConfig, Gate, GenerationConfig
from conf.exits import ExitsConfig
from tests.integration.test_model import write_tiny_checkpoint
from tests.shards import sample_members, write_tar


def test_auroc_is_the_chance_that_a_right_token_is_surer() -> None:
    right = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.8, 0.2, 0.1]), right) == 1
    assert auroc(np.array([0.1, 0.2, 0.8, 0.9]), right) == 0
    assert auroc(np.array([0.9, 0.3, 0.5, 0.1]), right) == 0.75
    assert auroc(np.full(4, 0.5), right) == 0.5
    assert np.isnan(auroc(np.array([0.9]), np.array([True])))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_auroc_equals_counting_all_pairs(tokens: list[tuple[int, bool]]) -> None:
    right, wrong = ([sure for sure, is_right in tokens if is_right is wanted] for wanted in (True, False))
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    expected = float(np.mean(pairs)) if pairs else float("nan")
    found = auroc(np.array([sure for sure, _ in tokens], dtype=float), np.array([is_right for _, is_right in tokens]))
    assert found == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_no_gate_is_better_than_one_that_knows(tokens: list[tuple[int, bool]]) -> None:
    sure = np.array([sure for sure, _ in tokens], dtype=float)
    right = np.array([is_right for _, is_right in tokens])
    curve, best = risk_coverage(sure, right), best_risk_coverage(right)
    assert (best <= curve + 1e-12).all()
    assert curve[-1] == pytest.approx(best[-1]) == pytest.approx(1 - right.mean())


def test_equally_sure_tokens_come_as_on_average() -> None:
    right = np.array([True, False, False, True])
    assert risk_coverage(np.array([0.9, 0.5, 0.5, 0.1]), right).tolist() == pytest.approx([0, 1 / 2, 2 / 3, 1 / 2])
    assert risk_coverage(np.full(4, 0.5), right).tolist() == pytest.approx([0.5] * 4)


def test_where_tokens_leave_and_what_chance_would_say() -> None:
    agrees = np.array([[True, True], [False, True], [True, True], [False, True]])
    texts, exits = Texts(np.array([4]), np.array([0])), (1, 3)
    oracle = leaving_at_the_first_right(agrees, texts, exits)
    assert (oracle.mean_depth, oracle.computed_depth, oracle.wrong) == (2.0, 3.0, 0.0)
    assert oracle.wrong_at_random == 0.25  # half of the tokens leave at an exit that is wrong for half of them
    everywhere = leaving(np.zeros(4, dtype=int), exits, agrees, texts)
    assert (everywhere.mean_depth, everywhere.wrong, everywhere.wrong_at_random) == (1.0, 0.5, 0.5)
    sure = Recording(np.array([[0.9, 1.0], [0.2, 1.0], [0.8, 1.0], [0.1, 1.0]]), agrees)
    assert leaving_at_risk(sure, sure, texts, exits, 0.0) == oracle


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Checkpoint]:
    """A random model with learned gates, twelve images, and what full depth says of them."""
    root: Path = tmp_path_factory.mktemp("gates")
    write_tar(root / "s.tar", [member for n in range(12) for member in sample_members(n)])
    tiny = load_checkpoint(write_tiny_checkpoint(root / "tiny", thresholds=None))
    config = tiny.config.model_copy(update={"gates": True})
    torch.manual_seed(1)
    state = MultiExitModel(config).state_dict()
    state.update(tiny.model.state_dict())
    state = {name: torch.randn_like(t) if ".gates." in name else t for name, t in state.items()}
    save_checkpoint(root / "checkpoint", config, state, tiny.codec.tokenizer)
    checkpoint = load_checkpoint(root / "checkpoint")
    rows = ExitsConfig.model_validate(
        {
            "checkpoint": str(root / "checkpoint"),
            "source": {"paths": [str(root / "s.tar")], "prompt": {"template": "?"}},
        }
    )
    engine = EngineConfig(num_slots=3, generation=GenerationConfig(max_new_tokens=6))
    return ask(RowSource(rows, config.plan), targets_of(rows, checkpoint, engine), engine), checkpoint


@pytest.mark.parametrize("gate", [Gate.SOFTMAX_MAX, Gate.SOFTMAX_DIFF, Gate.SATURATION, Gate.CLASSIFIER])
@pytest.mark.parametrize("exit_layer", [1, 3])
def test_recorded_confidences_decide_where_the_engine_lets_first_tokens_leave(
    asked: tuple[Asked, Checkpoint], gate: Gate, exit_layer: int
) -> None:
    rows, checkpoint = asked
    assert gate in gates_of(checkpoint.model)
    recording = record_gates(checkpoint.model, rows.batches(checkpoint), gates_of(checkpoint.model))[gate]
    firsts = recording.confidence_NE[rows.texts(checkpoint.config).starts_T, exit_layer - 1]
    low, high = np.sort(firsts)[[5, 6]]
    threshold = float(low + high) / 2
    assert low < threshold < high
    engine = EngineConfig(num_slots=3, gate=gate, generation=GenerationConfig(max_new_tokens=6))
    early = leaving_at(engine, (exit_layer, checkpoint.config.decoder.num_layers), (threshold,))
    said = rows.images.said(rows.images.engine(checkpoint, rows.targets, early), rows.targets)
    assert [done.exit_layers[0] == exit_layer for done in said] == (firsts >= threshold).tolist()
