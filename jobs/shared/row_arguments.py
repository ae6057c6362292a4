"""The arguments of commands that read rows with what is right for them -> one configuration.

They are short forms of --set, applied over the configuration file and under --set, as those of deed caption are.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from conf.errors import UserError
from jobs.shared.job_arguments import add_set_argument, is_set, quoted, source_settings

if TYPE_CHECKING:
    from conf.evaluation import LabelledConfig
    from conf.exits import ExitsConfig
    from conf.pretrained import PretrainedConfig
    from pipeline.source.plan import LeftOut

Rows = TypeVar("Rows", bound="PretrainedConfig | LabelledConfig | ExitsConfig")


def add_row_arguments(parser: argparse.ArgumentParser, example: str, out: str = "") -> None:
    """Add what `row_config` reads; `example`: a configuration file to look at; `out`: what --out is, if any."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="what to read, as for deed caption: a folder of images, tar shards, Parquet files, manifests",
    )
    parser.add_argument("--checkpoint", metavar="FOLDER", help="the model: a checkpoint, for example from deed convert")
    if out:
        parser.add_argument("--out", metavar="PATH", help=out)
    parser.add_argument(
        "--target",
        metavar="FIELD",
        help="the field of a sample that says what is right; auto: the names that published data sets use",
    )
    parser.add_argument(
        "--references",
        nargs="+",
        metavar="FILE",
        help="a file that says what is right, as COCO, VQA v2, DocVQA and others publish it, or two that belong "
        "together; with --target, by a field of its records",
    )
    parser.add_argument(
        "--prompt",
        help="what to ask of every image; {field} is replaced by a field of the sample, {{ and }} are braces",
    )
    parser.add_argument("--config", help=f"YAML file with the fields of the configuration, for example {example}")
    add_set_argument(parser, ", e.g. max_images=500")


def row_config(options: argparse.Namespace, schema: type[Rows]) -> Rows:
    """Return the configuration that the parsed arguments ask for.

    A model of tasks is asked for a caption where nobody says what to ask. UserError where they do not say what to read,
    by which model, or where that is no checkpoint.
    """
    from conf.checkpoint_files import read_model_config
    from conf.load import load_config
    from jobs.shared.converted_checkpoint import asked_a_caption

    out = getattr(options, "out", None)
    if options.config is None:
        if not options.sources and not is_set(options.set, "source.paths"):
            raise UserError("name what to read, for example a folder of images, or a --config file")
        if options.checkpoint is None and not is_set(options.set, "checkpoint"):
            raise UserError("name the model, --checkpoint FOLDER, or a --config file")
        needs_output = "output" in schema.model_fields and schema.model_fields["output"].is_required()
        if needs_output and out is None and not is_set(options.set, "output"):
            raise UserError("say where the results go, for example --out runs/mine")
    right = {"field": options.target, "references": options.references}
    right = {key: value for key, value in right.items() if value is not None}  # in place of all that the file says
    given = {
        "checkpoint": options.checkpoint, "output": out, "target": right or None,
        "source.prompt.template": options.prompt,
    }  # fmt: skip
    short = [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]
    config = load_config(options.config, [*source_settings(options), *short, *options.set], schema)
    prompt = asked_a_caption(config.source.prompt, read_model_config(config.checkpoint))
    return config.model_copy(update={"source": config.source.model_copy(update={"prompt": prompt})})


def say_what_is_left_out(left_out: Sequence["LeftOut"], what: str) -> None:
    """Say on stderr, by reason, which rows could not be used."""
    from pipeline.source.left_out import sentence

    if left_out:
        print(sentence(left_out, what), file=sys.stderr)
