"""What makes a training run the run it is: another one is not continued in its place."""

import hashlib
from typing import Any

from actors.model.checkpoint import Checkpoint
from actors.training.rows.row_source import RowSource
from conf.pretrained import PretrainedConfig

# What may change between two starts: where it runs, how it is watched, and what is chosen when weights are done.
_MAY_CHANGE = {
    "checkpoint", "output", "source", "loading", "workers", "device", "num_threads", "num_slots", "risk",
    "max_points_lost", "save_every", "validation_images", "test_images",
}  # fmt: skip


def run_identity(config: PretrainedConfig, checkpoint: Checkpoint, source: RowSource) -> dict[str, Any]:
    """Return what must be equal, by what it is called: settings, weights, and the images of the source."""
    settings = config.model_dump(mode="json", exclude=_MAY_CHANGE)
    listed = hashlib.sha256()
    for place in source.places:
        listed.update(f"{source.shards[place.shard].name}\0{place.sample.key}\n".encode("utf-8", "surrogatepass"))
    own = {"checkpoint": checkpoint.sha256, "images": listed.hexdigest(), "shuffle": config.loading.shuffle_images}
    held_out = {"validation_images": config.validation_images, "test_images": config.test_images}
    return {**own, **held_out, "prompt": config.source.prompt.model_dump(mode="json"), **settings}
