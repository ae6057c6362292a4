"""What makes a training run the run it is: another one is not continued in its place."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.model.checkpoint import Checkpoint
from actors.training.rows.row_source import RowSource
from conf.errors import UserError
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
    own = {
        "checkpoint": checkpoint.sha256,
        "images": listed.hexdigest(),
        "shuffle_images": config.loading.shuffle_images,
    }
    own |= {"chunk_rows": config.source.chunk_rows}
    held_out = {"validation_images": config.validation_images, "test_images": config.test_images}
    return {**own, **held_out, "prompt": config.source.prompt.model_dump(mode="json"), **settings}


def check_same_run(saved: Mapping[str, Any], ours: Mapping[str, Any], output: Path, num_workers: int) -> None:
    """Raise UserError where the state that was saved is of another run, or of another number of workers."""
    other = next((key for key in ours if saved["run"].get(key) != ours[key]), None)
    if other is not None:
        raise UserError(
            f"output {str(output)!r} holds a run with another {other}; name another output, or go on with the same"
        )
    if len(saved["places"]) != num_workers:
        raise UserError(
            f"output {str(output)!r} holds a run of {len(saved['places'])} workers, this one has {num_workers}; go on "
            "with as many, or name another output"
        )
