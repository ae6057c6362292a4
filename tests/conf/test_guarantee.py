"""A stored guarantee: read back, told apart from what it is not about, and gone with the thresholds it was of."""

from pathlib import Path

import pytest

from conf.checkpoint_files import read_model_config, write_model_config
from conf.errors import UserError
from conf.guarantee import FILE, Corpus, Guarantee, read_guarantee, write_guarantee
from tests.integration.test_model import write_tiny_checkpoint

GUARANTEE = Guarantee(
    method="learn_then_test", loss="text_differs", risk=0.02, level=0.95, sample_images=2000, observed=0.01,
    bound=0.015, exits=(1, 5), thresholds=(0.9, 1.01, 1.01, 1.01), weights_sha256="w",
    seed=0, date_utc="2026-01-01T00:00:00+00:00",
    corpus=Corpus(paths=("a.tar",), kind="webdataset", num_images=10_000, fingerprint="f"),
)  # fmt: skip


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_guarantee(tmp_path) is None
    assert read_guarantee(tmp_path / "none.json") is None
    assert write_guarantee(GUARANTEE, tmp_path) == tmp_path / FILE
    write_guarantee(GUARANTEE, tmp_path / "of" / "mine.json")
    assert read_guarantee(tmp_path) == read_guarantee(tmp_path / "of" / "mine.json") == GUARANTEE


@pytest.mark.parametrize("content", ["{", "[]", '{"risk": 2}'])
def test_what_is_none_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match="guarantee"):
        read_guarantee(tmp_path)


def test_it_is_about_thresholds_and_weights() -> None:
    assert GUARANTEE.matches([0.9, 1.01, 1.01, 1.01], "w")
    assert not GUARANTEE.matches(None, "w")
    assert not GUARANTEE.matches((0.8, 1.01, 1.01, 1.01), "w")
    assert not GUARANTEE.matches(GUARANTEE.thresholds, "v")


def test_new_thresholds_remove_it(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    write_guarantee(GUARANTEE, checkpoint)
    write_model_config(checkpoint, read_model_config(checkpoint).model_copy(update={"thresholds": (0.5,) * 4}))
    assert read_guarantee(checkpoint) is None
    write_guarantee(GUARANTEE, checkpoint)
    write_tiny_checkpoint(checkpoint)  # trained anew
    assert read_guarantee(checkpoint) is None
