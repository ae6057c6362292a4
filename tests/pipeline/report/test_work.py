"""Layers computed, told from where tokens left: by hand, and the fast form against the slow one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.work import Work, caught_up, computed_depth, layers_run, work_of

TEXTS = st.lists(st.lists(st.integers(1, 12), max_size=9), max_size=9)


@pytest.mark.parametrize(
    ("work", "layers"),
    [(Work.CATCHING_UP, 8 + 8 + 8 + 2 + 1), (Work.AS_LEFT, 1 + 2 + 8 + 2 + 1), (Work.FULL, 5 * 12)],
)
def test_layers_of_one_text(work: Work, layers: int) -> None:
    assert layers_run([1, 2, 8, 2, 1], work, 12) == layers
    assert layers_run([], work, 12) == 0


def test_full_depth_may_be_unknown() -> None:
    assert layers_run([1, 2], Work.FULL, None) is None
    assert layers_run([1, 2], Work.CATCHING_UP, None) == 4


@pytest.mark.parametrize(
    ("engine", "work"),
    [
        ({}, Work.CATCHING_UP),
        ({"kv": "jit"}, Work.CATCHING_UP),
        ({"kv": "copy"}, Work.AS_LEFT),
        ({"kv": "project", "lossless": False}, Work.AS_LEFT),
        ({"kv": "jit", "lossless": True}, Work.FULL),
    ],
)
def test_the_configuration_says_which(engine: dict[str, object], work: Work) -> None:
    assert work_of(engine) is work


@pytest.mark.parametrize(
    ("work", "num_layers", "depth"),
    [(Work.CATCHING_UP, None, 4.5), (Work.AS_LEFT, None, 3.0), (Work.FULL, 8, 8.0), (Work.FULL, None, None)],
)
def test_layers_computed_for_a_token(work: Work, num_layers: int | None, depth: float | None) -> None:
    assert computed_depth(9, 6, 2, work, num_layers) == depth
    assert computed_depth(0, 0, 0, work, num_layers) is None


@given(TEXTS)
def test_many_texts_at_once(texts: list[list[int]]) -> None:
    flat = np.array([layer for text in texts for layer in text], np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    computed = caught_up(flat, lengths).tolist()
    assert computed == [max(text[i:]) for text in texts for i in range(len(text))]
    assert sum(computed) == sum(layers_run(text, Work.CATCHING_UP, None) or 0 for text in texts)
