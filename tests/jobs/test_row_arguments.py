"""Short forms of the commands that read rows with what is right for them, and what is refused."""

import argparse
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.pretrained import PretrainedConfig
from jobs.shared.job_arguments import SHIPPED_CHECKPOINT
from jobs.shared.row_arguments import add_row_arguments, row_config
from tests.actors.interop.sources import make_source

SHIPPED = str(SHIPPED_CHECKPOINT)


def parse(*arguments: str, out: str = "run directory") -> PretrainedConfig:
    parser = argparse.ArgumentParser()
    add_row_arguments(parser, "conf/frozen.yaml", out)
    return row_config(parser.parse_args(arguments), PretrainedConfig)


def test_what_is_read_by_which_model_and_what_is_right() -> None:
    given = ("--checkpoint", SHIPPED, "--out", "runs/x", "--target", "caption", "--prompt", "# {name}: [x]")
    config = parse("a.parquet", "b.parquet", *given)
    assert (config.source.kind.value, config.source.paths) == ("parquet", ("a.parquet", "b.parquet"))
    assert (config.checkpoint, config.output) == (SHIPPED, "runs/x")
    assert (config.target.field, config.source.prompt.template) == ("caption", "# {name}: [x]")


def test_arguments_win_over_the_file_and_set_over_both(tmp_path: Path) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(
        "checkpoint: nowhere\noutput: o\nsource: {kind: webdataset, paths: [x.tar]}\ntarget: {template: '{a} {b}'}\n"
    )
    config = parse("--config", str(file), "--checkpoint", SHIPPED, "--target", "text")
    assert (config.source.paths, config.target.field, config.target.template) == (("x.tar",), "text", None)
    changed = parse("p.parquet", "--config", str(file), "--checkpoint", "gone", "--set", f"checkpoint={SHIPPED}")
    assert (changed.source.kind.value, changed.target.template) == ("parquet", "{a} {b}")


def test_a_model_of_tasks_is_asked_for_a_caption_where_nobody_asks(tmp_path: Path) -> None:
    from jobs.convert import main

    model = tmp_path / "model"
    make_source("florence2", model)
    assert main([str(model), str(tmp_path / "converted"), "--max-new-tokens", "8"]) == 0
    common = ("a.parquet", "--checkpoint", str(tmp_path / "converted"), "--out", "o")
    assert parse(*common).source.prompt.template == "<CAPTION>"
    assert parse(*common, "--prompt", "<OD>").source.prompt.template == "<OD>"
    with pytest.raises(UserError, match="deed convert makes a checkpoint of it"):
        parse("a.parquet", "--checkpoint", str(model), "--out", "o")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name what to read"),
        (["a.tar"], "name the model, --checkpoint"),
        (["a.tar", "--checkpoint", SHIPPED], "say where the results go, for example --out"),
        (["a.tar", "b.parquet", "--checkpoint", SHIPPED, "--out", "o"], "must be of one kind"),
        (["a.tar", "--checkpoint", "nowhere", "--out", "o"], "nowhere"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(*arguments)
