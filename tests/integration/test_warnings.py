"""What a run says of its checkpoint before it begins, and keeps in its record."""

import json
from pathlib import Path

import pytest

from jobs.caption import run_job
from tests.integration.corpus import fake_spec, make_config, write_shards

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("ray"),
]


@pytest.mark.parametrize("command", ["deed caption", "deed vqa"])
def test_a_checkpoint_that_lost_too_much_in_training_is_told_of(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "in", 1, 3)
    config = make_config(tmp_path)
    path = Path(config.model.checkpoint) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "points_lost": 1.5}))
    code, record = run_job(config, fake_spec, command=command)
    assert code == 0
    assert record is not None
    (warning,) = record["warnings"]
    assert "lost 1.5 points in training" in warning
    said = capsys.readouterr().err
    assert said.count(f"{command}: warning: {warning}\n") == said.count(" points ") == 1
