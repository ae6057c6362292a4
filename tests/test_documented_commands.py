"""Every `deed` command in README.md and docs/: it exists, takes these options, and its configuration is valid.

What the commands do is shown by the tests of each of them; here nothing is run.
"""

import contextlib
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from conf.evaluation import CalibrateConfig, EvaluateConfig
from conf.exits import ExitsConfig
from conf.load import load_config, read_values
from conf.pretrained import PretrainedConfig
from conf.schema import JobConfig
from conf.training import TrainConfig
from conf.vqa import VqaConfig
from jobs.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SCHEMAS: dict[str, type[BaseModel]] = {
    "caption": JobConfig, "demo": JobConfig, "plan": JobConfig, "evaluate": EvaluateConfig,
    "calibrate": CalibrateConfig, "vqa": VqaConfig, "exits": ExitsConfig,
}  # fmt: skip


def documented() -> list[tuple[str, str]]:
    """(page, command) of every line in a code block that begins with deed, and of what other lines have Ray run."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            for line in map(str.strip, lines):
                if line.startswith("deed "):
                    found.append((page.name, line))
                if " -- " in line:
                    inner = line.partition(" -- ")[2]
                    found.append((page.name, re.sub(r"^(python -m jobs\.)?", "deed ", inner)))
    return found


@pytest.mark.parametrize(("page", "command"), documented())
def test_a_documented_command_is_one(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *arguments = itertools.takewhile(lambda word: word != "--", shlex.split(command, comments=True)[1:])
    assert name in COMMANDS, f"{page}: no such command"
    for option in ("--config",):
        if option in arguments:
            assert Path(arguments[arguments.index(option) + 1]).is_file(), f"{page}: no such file"
    known = options_of([name, *(a for a in arguments[:1] if name == "bench")])
    for argument in arguments:
        assert not argument.startswith("--") or argument in known, f"{page}: {name} has no option {argument}"
    if "--config" in arguments and (schema := schema_of(name, arguments)) is not None:
        sets = [value for key, value in itertools.pairwise(arguments) if key == "--set"]
        config = load_config(arguments[arguments.index("--config") + 1], sets, schema)
        if isinstance(config, JobConfig) and not config.model.checkpoint.startswith(
            "runs/"
        ):  # those are yet to be made
            assert Path(config.model.checkpoint).is_dir(), f"{page}: no such checkpoint"


def schema_of(name: str, arguments: list[str]) -> type[BaseModel] | None:
    """What the command's configuration is checked against, for the commands that need no more than that."""
    if name == "train":
        values = read_values(arguments[arguments.index("--config") + 1], [])
        return PretrainedConfig if "checkpoint" in values else TrainConfig
    return _SCHEMAS.get(name)


def options_of(command: list[str]) -> set[str]:
    """What --help of a command lists."""
    module, _, function = COMMANDS[command[0]][0].partition(":")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        getattr(importlib.import_module(module), function)([*command[1:], "--help"])
    return set(re.findall(r"--[a-z0-9-]+", output.getvalue()))


def test_commands_are_found() -> None:
    assert {page for page, _ in documented()} >= {"README.md", "report.md", "data.md"}
    on_ray = [command for page, command in documented() if page == "cluster.md" and command.startswith("deed caption")]
    assert len(on_ray) == 2, "of ray job submit and of deed submit"
