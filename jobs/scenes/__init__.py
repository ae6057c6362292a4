"""`deed scenes`: writes one split of the corpus of synthetic scenes, with captions, questions and answers."""

import argparse
import time
from collections.abc import Sequence

from jobs.shared.job_arguments import add_set_argument


def main(arguments: Sequence[str]) -> int:
    """Write the shards, with a line of progress for each, then one summary line."""
    parser = argparse.ArgumentParser(prog="deed scenes", description=__doc__)
    parser.add_argument("--config", help="YAML file with the fields of ScenesConfig")
    add_set_argument(parser)
    options = parser.parse_args(arguments)

    from conf.load import load_config
    from jobs.scenes.config import ScenesConfig
    from jobs.scenes.shards import write_shards

    config = load_config(options.config, options.set, ScenesConfig)
    started = time.monotonic()
    paths = []
    for path in write_shards(config):
        paths.append(path)
        print(f"{path}  ({len(paths)} shards, {time.monotonic() - started:.0f} s)", flush=True)
    size_bytes = sum(path.stat().st_size for path in paths)
    print(f"{config.num_images} scenes in {len(paths)} shards, {size_bytes / 1e6:.1f} MB, {config.split} split")
    return 0
