"""A checkpoint with an exit at every layer: what is trained stays, the other layers speak through the shared head."""

from actors.model.checkpoint import Checkpoint
from actors.training.pretrained.exits import with_modules


def open_every_layer(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with exits 1 to N and no thresholds; those it lacks are listed as untrained.

    Their adapters change nothing, so that they say what the shared head makes of their layer.
    """
    config, weight = checkpoint.config, checkpoint.model.decoder.embedding.weight
    every = tuple(range(1, config.decoder.num_layers + 1))
    missing = set(every) - set(config.exits)
    opened = config.model_copy(
        update={
            "exits": every,
            "untrained_exits": tuple(sorted({*config.untrained_exits, *missing})),
            "thresholds": None,
            "gates": False,
            "gate_thresholds": None,
        }
    )
    made = with_modules(checkpoint, opened, weight.device)
    made.model.to(weight.dtype).requires_grad_(False)
    return made
