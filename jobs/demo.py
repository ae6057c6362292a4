"""`deed demo`: build the demo shards if they are missing, caption them with the shipped checkpoint, show a summary."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jobs.shared.job_arguments import SHIPPED_CHECKPOINT, add_config_arguments
from jobs.shared.log_modes import LogMode, add_log_argument

NUM_SCENES, NUM_SHARDS = 512, 4
CONFIG = Path(__file__).parent.parent / "conf" / "demo.yaml"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed demo", description=__doc__)
    add_config_arguments(parser, "JobConfig", str(CONFIG))
    add_log_argument(parser)
    options = parser.parse_args(arguments)

    from conf.load import load_config
    from conf.schema import JobConfig

    own = [f"model.checkpoint={SHIPPED_CHECKPOINT}"] if options.config == str(CONFIG) else []  # wherever it is typed
    config = load_config(options.config, [*own, *options.set], JobConfig)
    folder = Path(config.source.paths[0]).parent
    log_mode = LogMode(options.log)
    made = make_demo_shards(folder)
    if made and log_mode is LogMode.PROGRESS:
        print(f"wrote {made} demo shards to {folder}: {NUM_SCENES} held-out scenes and a few broken and odd files")

    from jobs.caption import run_and_summarise

    return run_and_summarise(config, log_mode)


def make_demo_shards(folder: Path) -> int:
    """Write the shards that are missing and return how many; odd files are spread over the shards."""
    paths = [folder / f"demo-{number:03d}.tar" for number in range(NUM_SHARDS)]
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return 0
    import json
    import os
    import tarfile

    from jobs.scenes.config import ScenesConfig
    from jobs.scenes.odd_images import broken_images
    from jobs.scenes.shards import add_member, jpeg_bytes, make_scene

    config = ScenesConfig(split="test", num_images=NUM_SCENES, images_per_shard=NUM_SCENES // NUM_SHARDS)
    odd = broken_images(config.seed, config)
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        number = paths.index(path)
        partial = path.with_suffix(f".tar.{os.getpid()}.partial")
        with partial.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            first = number * config.images_per_shard
            for index in range(first, first + config.images_per_shard):
                image, row = make_scene(config.seed, config.split, index, config)
                add_member(tar, f"{row['key']}.jpg", jpeg_bytes(image, config.jpeg_quality))
                add_member(tar, f"{row['key']}.json", json.dumps(row).encode())
            for file in odd[number::NUM_SHARDS]:
                add_member(tar, f"odd-{file.name}", file.payload)
        partial.rename(path)
    return len(missing)
