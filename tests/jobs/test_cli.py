"""The command line: every help at once, every user's mistake one sentence and exit code 2."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.errors import UserError
from jobs import cli
from tests.pipeline.report.runs import FakeRun

ROOT = Path(__file__).parents[2]
WRITTEN = [
    name
    for name, (target, _) in cli.COMMANDS.items()
    if (ROOT / target.partition(":")[0].replace(".", "/")).with_suffix(".py").is_file()
]


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in WRITTEN)], ids=" ".join)
def test_every_help_answers_in_under_a_second_of_work(arguments: list[str]) -> None:
    """CPU time, not wall time: the machine may be busy."""
    code = (
        "import runpy, sys, time; sys.argv[0] = 'deed'\n"
        "try: runpy.run_module('jobs.cli', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('cpu', time.process_time(), sorted(sys.modules.keys() & {'torch', 'ray', 'transformers'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    cpu_s, loaded = result.stdout.splitlines()[-1].split(" ", 2)[1:]
    assert result.stdout.startswith("usage: deed")
    assert float(cpu_s) < 1.0
    assert loaded == "[]"


def test_without_a_command_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_a_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["captoin"]) == 2
    assert "unknown command 'captoin'" in capsys.readouterr().err


def test_a_user_error_is_one_sentence_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise UserError("no such thing")

    monkeypatch.setattr("jobs.caption.main", fail)
    assert cli.main(["caption"]) == 2
    assert capsys.readouterr().err == "deed caption: no such thing\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine.slots=3"], "unknown key 'engine.slots', did you mean 'engine.num_slots'?"),
        (["engine.exits=[6, 3]"], "exits must be increasing, got [6, 3]"),
        (["model.checkpoint=nowhere"], "checkpoint 'nowhere' has no config.json"),
    ],
)
def test_a_bad_configuration_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    arguments = ["caption", "--config", str(ROOT / "conf" / "caption.yaml"), "--set", f"output.path={tmp_path}/out"]
    for override in overrides:
        arguments += ["--set", override]
    start_s = time.process_time()
    assert cli.main(arguments) == 2
    assert time.process_time() - start_s < 5
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf8_can_be_reported_and_printed(tmp_path: Path) -> None:
    odd = f"{tmp_path}/r\udce9"
    FakeRun(tmp_path / "run", num_rows=5, source_paths=(f"{odd}/*.tar",)).write()
    os.rename(tmp_path / "run", odd)
    for arguments in (["report", odd], ["export", odd, "--to", "csv", "--out", f"{odd}/a.csv"]):
        command = [sys.executable, "-m", "jobs.cli", *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"r\\udce9" in done.stdout
