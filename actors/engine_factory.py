"""Checkpoint and configuration -> engine. Texts among the generation options become token ids on the way.

Engines know no text; everybody else makes them here, so that every option works wherever an engine runs.
"""

from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.generation_texts import tokenized
from actors.model.checkpoint import Checkpoint
from conf.engine import EngineConfig


def make_engine(checkpoint: Checkpoint, config: EngineConfig) -> Engine | BeamEngine:
    """Return the engine the configuration asks for; UserError where the checkpoint cannot do it."""
    generation = tokenized(config.generation, checkpoint.codec, checkpoint.config.decoder.max_positions)
    config = config.model_copy(update={"generation": generation})
    return Engine(checkpoint.model, config) if generation.num_beams == 1 else BeamEngine(checkpoint.model, config)
