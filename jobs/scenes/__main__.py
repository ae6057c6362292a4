"""python -m jobs.scenes [--config FILE] [--set key=value ...]: writes one split of the scenes corpus."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from conf.errors import UserError
from jobs.scenes.config import ScenesConfig


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deed scenes", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file with the fields of ScenesConfig")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one field")
    options = parser.parse_args(arguments)
    try:
        run(load_config(options.config, options.set))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def load_config(path: Path | None, overrides: list[str]) -> ScenesConfig:
    """The file's fields, then the overrides, checked; a mistake is one sentence."""
    fields: dict[str, object] = {}
    if path is not None:
        if not path.is_file():
            raise UserError(f"config file {path} does not exist")
        fields |= yaml.safe_load(path.read_text()) or {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, got {override!r}")
        fields[key] = yaml.safe_load(value)
    try:
        return ScenesConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"scenes: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def run(config: ScenesConfig) -> None:
    """Writes the shards, a line of progress for each, then one summary line."""
    from jobs.scenes.shards import write_shards  # numpy and pillow: not needed for --help

    started = time.monotonic()
    paths = []
    for path in write_shards(config):
        paths.append(path)
        print(f"{path}  ({len(paths)} shards, {time.monotonic() - started:.0f} s)", flush=True)
    size_bytes = sum(path.stat().st_size for path in paths)
    print(f"{config.num_images} scenes in {len(paths)} shards, {size_bytes / 1e6:.1f} MB, {config.split} split")


if __name__ == "__main__":
    sys.exit(main())
