"""`deed calibrate --risk`: what is certified, what is refused, and what stands in the checkpoint afterwards."""

import json
import re
from pathlib import Path

import pytest

from actors.training.exits import asked
from conf.checkpoint_files import read_model_config, weights_sha256
from conf.guarantee import FILE, read_guarantee
from conf.pretrained import PretrainedConfig
from jobs.cli import main
from tests.actors.training.guarantee.test_recording import quiet
from tests.actors.training.own_run import write_own_run
from tests.jobs.test_exits import rewrite
from tests.shards import sample_members, write_tar

NUM_IMAGES = 48
QUICK = [
    "--set", "guarantee.sample_images=38", "--set", "guarantee.path_images=10", "--set", "engine.num_slots=8",
    "--set", "engine.generation.max_new_tokens=8", "--set", "engine.tuning.calibration_s=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarantee")
    write_tar(folder / "s.tar", [m for n in range(NUM_IMAGES) for m in sample_members(n, captions=[f"what is {n}"])])
    quiet(folder / "checkpoint", 1)
    return folder


@pytest.fixture
def checkpoint(root: Path, tmp_path: Path) -> Path:
    """A copy whose files may change."""
    return rewrite(root / "checkpoint", tmp_path / "checkpoint")


def run(root: Path, checkpoint: Path, *more: str) -> int:
    return main(["calibrate", str(root / "s.tar"), "--checkpoint", str(checkpoint), *QUICK, *more])


def test_what_is_certified_is_written_with_its_evidence(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, checkpoint, "--risk", "0.3") == 0
    said = capsys.readouterr().out
    guarantee, config = read_guarantee(checkpoint), read_model_config(checkpoint)
    assert guarantee is not None
    assert config.thresholds == guarantee.thresholds
    assert guarantee.matches(config.thresholds, weights_sha256(checkpoint))
    assert not guarantee.matches((0.5,) * 4, weights_sha256(checkpoint))
    assert not guarantee.matches(config.thresholds, "other")
    assert guarantee.observed <= guarantee.bound <= guarantee.risk == 0.3
    assert (guarantee.method, guarantee.level, guarantee.loss) == ("learn_then_test", 0.95, "text_differs")
    assert (guarantee.sample_images, guarantee.corpus.num_images) == (38, NUM_IMAGES)
    assert guarantee.corpus.paths == (str(root / "s.tar"),)
    assert guarantee.generation.max_new_tokens == 8
    assert "at most 0.3 in the mean of all images, with probability 0.95" in said
    assert "of 38 images 6 may be lost" in said
    assert "with probability 0.95: the share of images whose text is not full depth's" in said
    assert "mean layer that tokens leave at" in said
    assert "by really decoding" in said
    assert said.count(" kept ") >= 2

    assert main(["calibrate", str(root / "s.tar"), "--checkpoint", str(checkpoint), "--target", "captions", "--set",
                 "max_images=8", "--set", "check_images=4", "--set", "max_points_lost=100"]) == 0  # fmt: skip
    assert not (checkpoint / FILE).exists(), "thresholds are others now"


def test_a_guarantee_of_its_own_leaves_the_checkpoint_as_it_is(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    before = (checkpoint / "config.json").read_bytes()
    assert run(root, checkpoint, "--risk", "0.3", "--out", str(tmp_path / "mine" / "other.json")) == 0
    assert (checkpoint / "config.json").read_bytes() == before
    assert not (checkpoint / FILE).exists()
    guarantee = read_guarantee(tmp_path / "mine" / "other.json")
    assert guarantee is not None
    assert guarantee.weights_sha256 == weights_sha256(checkpoint)


def test_nothing_is_written_where_only_full_depth_keeps_the_risk(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exits that never agree with full depth are closed by every vector of the path."""
    checkpoint = rewrite(root / "checkpoint", tmp_path / "checkpoint", quieter=4.0)
    before = (checkpoint / "config.json").read_bytes()
    assert run(root, checkpoint, "--risk", "0.08") == 1
    assert "no thresholds keep a risk of 0.08 with probability 0.95" in capsys.readouterr().out
    assert (checkpoint / "config.json").read_bytes() == before
    assert not (checkpoint / FILE).exists()


def test_too_few_images_are_one_sentence_before_any_work(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.model.checkpoint.load_checkpoint", lambda *_, **__: pytest.fail("loads a model"))
    assert run(root, checkpoint, "--risk", "0.01") == 2
    error = capsys.readouterr().err
    assert "can never be shown by 38 images" in error
    assert "299 are needed at least" in error
    assert error.count("\n") == 1


def test_a_source_with_too_few_images_is_one_sentence(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, checkpoint, "--risk", "0.05", "--set", "guarantee.sample_images=500") == 2
    assert "59 are needed at least" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["betting", "conformal_risk_control"])
def test_other_methods(method: str, root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, checkpoint, "--risk", "0.4", "--set", f"guarantee.method={method}") == 0
    guarantee = read_guarantee(checkpoint)
    assert guarantee is not None
    assert guarantee.method == method
    assert guarantee.level == (0.95 if method == "betting" else None)
    assert ("in expectation" in capsys.readouterr().out) is (method != "betting")


@pytest.mark.parametrize("loss", ["dissimilarity", "points_lost"])
def test_other_losses_are_no_larger_than_that_texts_differ(
    loss: str, root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--target", "captions"] if loss == "points_lost" else []
    assert run(root, checkpoint, "--risk", "0.4", "--set", f"guarantee.loss={loss}", *labels) == 0
    guarantee = read_guarantee(checkpoint)
    assert guarantee is not None
    assert guarantee.loss == loss
    lost = losses_printed(capsys.readouterr().out)
    assert run(root, checkpoint, "--risk", "0.4", "--set", "exits=[1,2,3,4,5]") == 0
    differs = losses_printed(capsys.readouterr().out)
    both = lost.keys() & differs.keys()
    assert len(both) > 1
    assert all(lost[step] <= differs[step] for step in both)


def losses_printed(said: str) -> dict[str, float]:
    """Mean losses, in percent, by the steps of the table."""
    return {step: float(loss) for step, loss in re.findall(r"^ +(\d+) +[\d.]+ +[\d.]+ +([\d.]+)%", said, re.MULTILINE)}


def full_depth_run(root: Path, checkpoint: Path, folder: Path, **engine: object) -> str:
    values = {"checkpoint": str(checkpoint), "source": {"paths": [str(root / "s.tar")]}, "output": "nowhere"}
    run = write_own_run(PretrainedConfig.model_validate({**values, "max_new_tokens": 8}), folder)
    record = json.loads((folder / "run.json").read_text())
    if engine:
        record["config"] = {"engine": engine}
    (folder / "run.json").write_text(json.dumps(record))
    return run


def test_texts_of_a_run_are_taken_in_place_of_decoding(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = full_depth_run(root, checkpoint, tmp_path / "run", schedule="full", generation={"max_new_tokens": 8})
    assert run(root, checkpoint, "--risk", "0.3") == 0
    decoded = read_guarantee(checkpoint)
    monkeypatch.setattr(asked, "_with_own_texts", lambda *_: pytest.fail("decodes at full depth"))
    assert run(root, checkpoint, "--risk", "0.3", "--set", f"target.run={run_}") == 0
    taken = read_guarantee(checkpoint)
    assert decoded is not None
    assert taken is not None
    assert taken.model_copy(update={"date_utc": ""}) == decoded.model_copy(update={"date_utc": ""})


def test_a_run_must_be_full_depth_of_this_checkpoint(
    root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(run_: str, *more: str) -> str:
        assert run(root, checkpoint, "--risk", "0.3", "--set", f"target.run={run_}", *more) == 2
        return capsys.readouterr().err

    assert "left early" in refused(full_depth_run(root, checkpoint, tmp_path / "early", schedule="pool"))
    other = full_depth_run(root, checkpoint, tmp_path / "longer", schedule="full", generation={"max_new_tokens": 9})
    assert "other engine.generation" in refused(other)
    record = tmp_path / "longer" / "run.json"
    record.write_text(record.read_text().replace(weights_sha256(checkpoint), "0" * 64))
    assert "is of another checkpoint" in refused(other)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("max_images=10", "a guarantee is about all images"),
        ("engine.gate=saturation", "engine.gate"),
        ("engine.kv=copy", "engine.kv"),
        ("engine.schedule=consensus", "engine.schedule=consensus"),
        ("exits=[1,2]", "must increase and end with 5"),
        ("guarantee.risk=1.5", "less than 1"),
        ("guarantee.loss=points_lost", "no label"),
    ],
)
def test_mistakes_are_one_sentence(
    setting: str, said: str, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "s.tar", [m for n in range(NUM_IMAGES) for m in sample_members(n)])
    assert run(tmp_path, root / "checkpoint", "--risk", "0.3", "--set", setting) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_output_needs_a_promise(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "checkpoint", "--out", "x.json") == 2
    assert "--risk" in capsys.readouterr().err
