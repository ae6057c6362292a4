"""The wheel, installed outside of the checkout, does what the checkout does: its data files are in it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.shards import image_bytes

ROOT = Path(__file__).parents[2]
_PACKAGES = ("conf", "pipeline", "actors", "jobs", "assets")


def run(arguments: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, text=True, capture_output=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither stale files get in nor new ones into the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    run(command, source)
    (built,) = out.glob("*.whl")
    return built


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for name in _PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - inside == set()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_caption_and_report_from_a_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """An environment without the checkout, whose other packages are those of the environment that runs the test."""
    run([sys.executable, "-m", "venv", "--without-pip", "env"], tmp_path)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # of which no .pth file is read
    python = tmp_path / "env" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)], tmp_path)
    where = run([str(python), "-c", "import jobs, pipeline; print(jobs.__file__, pipeline.__file__)"], tmp_path)
    assert str(ROOT) not in where

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(image_bytes((200, 10, 10), (90, 60), "JPEG"))
    deed = str(tmp_path / "env" / "bin" / "deed")
    run([deed, "caption", "photos", "--out", "out", "--set", "engine.generation.max_new_tokens=8"], tmp_path)
    (row,) = pq.read_table(tmp_path / "out" / "results").to_pylist()
    assert row["text"]
    run([deed, "report", "out"], tmp_path)
    page = (tmp_path / "out" / "report.html").read_text()
    assert (ROOT / "pipeline" / "report" / "report.css").read_text()[:200] in page
