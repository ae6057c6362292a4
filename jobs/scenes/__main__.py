"""python -m jobs.scenes [--config FILE] [--set key=value ...]: writes one split of the scenes corpus."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from conf.load import load_config
from jobs.scenes.config import ScenesConfig


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deed scenes", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file with the fields of ScenesConfig")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one field")
    options = parser.parse_args(arguments)
    run(load_config(options.config, options.set, ScenesConfig))
    return 0


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
    from jobs.cli import main as deed

    sys.exit(deed(["scenes", *sys.argv[1:]]))
