"""The arguments that commands share; those of `deed caption` and its like -> one configuration.

Sources, --out, --checkpoint and the like are short forms of --set, applied over the configuration file and under --set.
"""

import argparse
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from conf.errors import UserError
from conf.source_kinds import kind_by_name, kind_in_folder
from pipeline.text import json_text, storable

if TYPE_CHECKING:
    from conf.schema import JobConfig

Job = TypeVar("Job", bound="JobConfig")

SHIPPED_CHECKPOINT = Path(__file__).parents[2] / "assets" / "checkpoints" / "deed-scenes"
_MOST_FILES_LOOKED_AT = 10_000


def add_config_arguments(parser: argparse.ArgumentParser, fields: str, default: str | None = None) -> None:
    """--config, which is required where nothing is the default, and --set; `fields`: of which schema."""
    shown = "" if default is None else " (default: %(default)s)"
    parser.add_argument(
        "--config", required=default is None, default=default, help=f"YAML file with the fields of {fields}{shown}"
    )
    add_set_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser, example: str = "") -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"override one field{example}")


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `job_config` reads, and the prompt."""
    add_source_arguments(parser, "conf/caption.yaml")
    parser.add_argument(
        "--prompt",
        help="what to ask for every image; {field} is replaced by a field of the sample, {{ and }} are braces",
    )


def add_source_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Add what is read, by which model, where results go; `example` is a configuration file to look at."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a folder of images; or files of one kind, or a folder of them: tar shards, Parquet with images inside, "
        "CSV or JSON manifests, or .txt lists of URLs; globs and URLs too",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the results go, a folder or URL")
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="the model: a checkpoint, or a model directory of transformers (default: the shipped one)",
    )
    parser.add_argument("--config", help=f"YAML file with the fields of the configuration, for example {example}")
    add_set_argument(parser, ", e.g. source.chunk_rows=64")


def job_config(options: argparse.Namespace) -> "JobConfig":
    """The configuration that the parsed arguments ask for; UserError if they do not say what to read or to write."""
    from conf.schema import JobConfig

    return source_config(options, JobConfig, {"source.prompt.template": options.prompt})


def source_config(options: argparse.Namespace, schema: type[Job], more: Mapping[str, object]) -> Job:
    """The same for a command with other short forms: `more` are keys and what was given for them, None for nothing."""
    from conf.load import load_config
    from jobs.shared.converted_checkpoint import with_own_checkpoint

    short: list[str] = []
    if options.config is None:
        short.append(f"model.checkpoint={quoted(str(SHIPPED_CHECKPOINT))}")
        if not options.sources and not is_set(options.set, "source.paths"):
            raise UserError("name what to read, for example a folder of images, or a --config file")
        if options.out is None and not is_set(options.set, "output.path"):
            raise UserError("say where the results go, for example --out runs/mine")
    short += source_settings(options)
    given = {"output.path": options.out, "model.checkpoint": options.checkpoint, **more}
    short += [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]
    return with_own_checkpoint(load_config(options.config, [*short, *options.set], schema))


def source_settings(options: argparse.Namespace) -> list[str]:
    """Return the settings of the sources that are named on the command line; none: none."""
    if not options.sources:
        return []
    kind = [] if is_set(options.set, "source.kind") else [f"source.kind={kind_of(options.sources)}"]
    return [*kind, f"source.paths={quoted(options.sources)}"]


def kind_of(sources: Sequence[str]) -> str:
    """Return the source.kind of paths, globs or URLs by their suffixes; UserError when they are of different kinds."""
    kinds = {source: _kind_of_one(source) for source in sources}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{source!r} ({kind})" for source, kind in list(kinds.items())[:3])
        raise UserError(f"all sources of a run must be of one kind, got {shown}")
    return kinds[sources[0]]


def _kind_of_one(source: str) -> str:
    from pipeline.source.readers.file_kinds import is_image_name

    if Path(source).is_dir():
        return _kind_of_folder(source)
    kind = kind_by_name(source.rstrip("/"))
    if kind is None and Path(source).is_file():
        if is_image_name(source):
            folder = storable(os.path.dirname(source) or ".")
            raise UserError(
                f"{storable(source)!r} is an image: name the folder it lies in, {folder!r}, or a list of images"
            )
        raise UserError(
            f"the name of {storable(source)!r} does not say what it is: of an image name the folder, of anything else "
            "the kind, --set source.kind=webdataset, parquet or manifest"
        )
    return kind or "images"


def _kind_of_folder(source: str) -> str:
    """Of images, unless it has none and has shards of one kind; its first files decide."""
    from pipeline.source.readers.file_kinds import is_hidden, is_image_name

    found: dict[str, str] = {}  # kind -> a file of it
    names = (
        os.path.relpath(os.path.join(folder, name), source)
        for folder, _, files in os.walk(source, followlinks=False)
        for name in files
    )
    for name in itertools.islice(names, _MOST_FILES_LOOKED_AT):
        if not is_hidden(name):
            if is_image_name(name):
                return "images"
            found.setdefault(kind_in_folder(name) or "", name)
    found.pop("", None)
    if len(found) > 1:
        kinds = " and ".join(f"{kind} ({storable(name)})" for kind, name in sorted(found.items()))
        raise UserError(
            f"the folder {storable(source)!r} holds files of several kinds, {kinds}: name those that are meant"
        )
    return next(iter(found), "images")


def is_set(overrides: Sequence[str], key: str) -> bool:
    """Whether --set names the key, or the section it is in."""
    return any(override.partition("=")[0].strip() in (key, key.partition(".")[0]) for override in overrides)


def quoted(value: object) -> str:
    """As YAML, so that a path or a prompt is taken as it is."""
    return json_text(value)
