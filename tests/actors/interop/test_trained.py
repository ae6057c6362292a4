"""Words of two trained models: what the library says of picture files that are not square is said here, and is true.

The directories `trained/pix2struct` and `trained/donut` are what `tests.actors.interop.trained.train` writes.
"""

from pathlib import Path

import pytest

from actors.parity.compare import Asked, Verdict, compare
from actors.parity.library import Library
from actors.parity.ours import Ours
from conf.engine import EngineConfig
from jobs.cli import main
from tests.actors.interop.trained.models import STRIPS
from tests.actors.interop.trained.pictures import picture_file
from tests.effort import effort

SHIPPED = Path(__file__).parent / "trained"
FULL = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": 24}})


@pytest.mark.parametrize("name", STRIPS)
def test_a_trained_model_says_here_what_it_says_there(name: str, tmp_path: Path) -> None:
    assert main(["convert", str(SHIPPED / name), str(tmp_path / "ours"), "--exits", "1,2,4"]) == 0
    files = [picture_file("test", index) for index in range(effort(24, 500))]
    work = [Asked(str(index), payload, "") for index, (_, payload, _) in enumerate(files)]
    library = Library(SHIPPED / name, FULL.generation.max_new_tokens)
    found = list(compare(library, Ours.load(str(tmp_path / "ours"), FULL), work))
    assert [comparison.verdict for comparison in found] == [Verdict.EQUAL] * len(files)
    true = [comparison.ours.strip() == caption for comparison, (_, _, caption) in zip(found, files, strict=True)]
    assert sum(true) > len(files) / 2
