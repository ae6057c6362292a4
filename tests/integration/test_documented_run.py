"""Every command of README.md and docs/ is run, in the order of its page, on a few images and with few steps.

A code block without a language holds commands and nothing else. What is cut short says so in CHEAPER, what is not run
at all says in NOT_RUN why, and which test runs it. Of `ray job submit`, `deed submit` and a crontab's line, the command
in it is, with folders here in place of buckets.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import demo
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.integration.ray_nodes import fresh_ray
from tests.shards import image_bytes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# fmt: off
# how a command begins -> (why it is not run here, the test that runs it)
NOT_RUN = {
    "make demo":         ("installs everything",       "tests/integration/test_demo.py"),
    "make test":         ("runs this test",            "tests/integration/test_documented_run.py"),
    "deed bench engine": ("takes minutes to hours",    "tests/jobs/bench/test_engine_bench.py"),
    "deed bench chaos":  ("takes minutes",             "tests/integration/test_chaos.py"),
    "deed export runs/boxes": ("needs a model of boxes", "tests/actors/interop/test_florence2_boxes.py"),
    "export":            ("is the shell's",            "tests/integration/test_cluster.py"),
    "crontab":           ("changes the machine",       "tests/conf/test_manifests.py"),
    "docker":            ("needs Docker",              "tests/conf/test_manifests.py"),
    "kubectl":           ("needs Kubernetes",          "tests/conf/test_manifests.py"),
}
# how a command begins -> what is added to it
_JOB = "--set actors.num_actors=1 --set engine.tuning.calibration_s=0 --set engine.generation.max_new_tokens=8 "
_PRETRAINED = (
    "--set validation_images=2 --set test_images=2 --set max_new_tokens=8 --set num_threads=1 --prompt 'w7 w8' "
    "--set optimizer.batch_images=2 "
)
CHEAPER = {
    "deed caption": _JOB,
    "deed caption ./photos --checkpoint": "--prompt 'w7 w8'",
    "deed vqa": _JOB,
    "deed convert": "--max-new-tokens 16",
    "deed train ./photos": _PRETRAINED + "--set optimizer.total_steps=3 --set max_points_lost=100",
    "deed train 'data/mine/*.tar' --config conf/frozen.yaml":
        _PRETRAINED + "--set max_images=14 --set optimizer.total_steps=2 --set optimizer.gate_steps=2",
    "deed train --config conf/train.yaml":
        "--set architecture.d_model=32 --set architecture.num_heads=2 --set architecture.d_ff=64 --set num_threads=1 "
        "--set tokenizer.vocab_size=300 --set optimizer.encoder_steps=1 --set optimizer.encoder_batch_images=2 "
        "--set optimizer.total_steps=3 --set optimizer.warmup_steps=1 --set optimizer.batch_images=2 "
        "--set validation_images=2",
    "deed train --config conf/train-":
        "--set architecture.d_model=32 --set architecture.num_heads=2 --set architecture.d_ff=64 --set num_threads=1 "
        "--set tokenizer.vocab_size=300 --set optimizer.total_steps=2 --set optimizer.batch_images=2 "
        "--set validation_images=2",
    "deed scenes": "--set num_images=12 --set images_per_shard=6",
    "deed calibrate": "--set max_images=6 --set check_images=2 --set prompts_per_image=1",
    "deed evaluate": "--set max_images=2 --set prompts_per_image=1 --set static_exits=false",
    "deed bench pipeline": "--rows 300 --rows-per-shard 150",
    "deed bench decoders": "--images 1 --rounds 1 --sizes 256",
}
# fmt: on


def commands_of(page: Path) -> list[str]:
    """The lines of code blocks without a language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.replace("\\\n", " ").splitlines()]
    return [inner(line.strip()) for line in lines if line.strip()]


def inner(line: str) -> str:
    """What a crontab's line, `ray job submit` or `deed submit` runs, on folders here; any other line as it is."""
    line = line.replace("s3://BUCKET/shards", "data/mine").replace("s3://BUCKET/", "runs/bucket-")
    line = re.sub(r"^[\d*/]+( [\d*/]+){4} cd \S+ && \.venv/bin/", "", line)
    return re.sub(r"^(ray job submit .* -- python -m jobs\.|deed submit .* -- )", "deed ", line)


def reason_not_to_run(command: str) -> str | None:
    return next((reason for start, (reason, _) in NOT_RUN.items() if command.startswith(start)), None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the pages take for granted: assets, images, a model. Gives finished runs, kept aside."""
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(ROOT / "assets", folder / "assets")  # calibration writes into it
    (folder / "conf").symlink_to(ROOT / "conf")
    (folder / "photos").mkdir()
    for number in range(8):
        (folder / "photos" / f"{number}.png").write_bytes(image_bytes((30 * number, 90, 120)))
    (folder / "path" / "to").mkdir(parents=True)
    make_source("pix2struct", folder / "path" / "to" / "transformers-model")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch, fresh_ray():
            patch.setattr(demo, "NUM_SCENES", 16)
            make_inputs(folder)
            kept = folder / "kept"
            for name, command in (
                ("demo", "deed demo --set source.chunk_rows=4"),
                ("mine", "deed caption ./photos --out runs/mine"),
                ("a", "deed caption --config conf/caption.yaml --set output.path=runs/a"),
                ("b", "deed caption --config conf/caption.yaml --set engine.schedule=full --set output.path=runs/b"),
            ):
                assert run(command, "deed caption") == 0
                shutil.copytree(folder / "runs" / name, kept / name)
            shutil.copytree(kept / "a", kept / "trial")
            yield kept
    finally:
        os.chdir(before)


def make_inputs(folder: Path) -> None:
    """Shards of every kind the pages name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    demo.make_demo_shards(folder / "data" / "demo")
    shutil.copytree(folder / "data" / "demo", folder / "data" / "mine")
    assert run("deed scenes --config conf/scenes.yaml --set split=test") == 0
    rows = [{"image": image_bytes((10, 20, 30 * number))} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "images.parquet")


def run(command: str, like: str | None = None) -> int:
    """Its exit code; with what makes it, or the command it is like, cheaper."""
    extra = [words for start, words in CHEAPER.items() if command.startswith(start) or like == start]
    arguments = shlex.split(command, comments=True) + [word for words in extra for word in shlex.split(words)]
    if arguments[0] == "python":
        return subprocess.run([sys.executable, *arguments[1:]], check=False, timeout=60).returncode
    assert arguments[0] == "deed", f"neither run nor listed: {command}"
    return main(arguments[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_its_order(page: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs", ignore_errors=True)
    commands = [command for command in commands_of(page) if reason_not_to_run(command) is None]
    for name in sorted(path.name for path in runs.iterdir()):
        first = next((command for command in commands if re.search(rf"runs/{name}\b", command)), None)
        if first is not None and not re.search(rf"(--out |output\.path=)runs/{name}\b", first):
            shutil.copytree(runs / name, Path("runs") / name)
    for command in commands:
        code = run(command)
        said = capsys.readouterr()
        assert code == 0, f"{command}\n{said.out}\n{said.err}"


def test_what_is_not_run_is_documented_and_tested_elsewhere() -> None:
    documented = [command for page in PAGES for command in commands_of(page)]
    for start, (_, test) in NOT_RUN.items():
        assert any(command.startswith(start) for command in documented), f"nothing documented begins with {start!r}"
        assert (ROOT / test).is_file(), test
    for start in CHEAPER:
        assert any(command.startswith(start) for command in documented), f"nothing documented begins with {start!r}"
    assert len(documented) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    for named in re.findall(r"`((?:conf|docs|pipeline|actors|jobs|tests|assets)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), named
