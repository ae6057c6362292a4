"""What every exit would have said of full depth's own texts -> whether leaving early changes them, for any thresholds.

Layers that a token skips are computed later, so what its successors read is what full depth has there (engine.kv=jit).
As long as nothing else was said, every exit hence says, and is as sure, as in one teacher-forced pass over full depth's
text: the first token that leaves with another word is the first one that differs, and if there is none the texts are
the same. One recording answers for all thresholds; what is said after a difference it does not know.

Shape suffixes: N tokens, text after text; E exits (the last is full depth); I images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.engine.processors import Processors
from actors.generation_texts import tokenized
from actors.model.weights import with_weights
from actors.training.exits.asked import Asked
from actors.training.thresholds import Recording, column_left_at, exits_say
from conf.engine import EngineConfig
from pipeline.report.work import caught_up

Thresholds = tuple[float, ...]


@dataclass(frozen=True)
class Recorded:
    """Images with what their texts' tokens were at every exit; `agrees_NE` is against what full depth said."""

    recording: Recording
    exits: tuple[int, ...]  # layers, a column each
    steps_T: np.ndarray  # tokens of each text
    texts_I: np.ndarray  # texts of each image

    @classmethod
    def of(cls, asked: Asked, engine: EngineConfig) -> "Recorded":
        """Run the model once over full depth's texts."""
        checkpoint = asked.targets.checkpoint
        device = checkpoint.model.decoder.embedding.weight.device
        generation = tokenized(engine.generation, checkpoint.codec, checkpoint.config.decoder.max_positions)
        processors = Processors.resolve(checkpoint.config, generation, device)
        model = with_weights(checkpoint.model, engine.weights)  # as the engine has it
        confidence, agrees = [], []
        for said_N, tokens_NE, confidence_NE in exits_say(model, asked.batches(checkpoint), processors):
            ends = np.array(checkpoint.config.end_ids)
            both_end_NE = np.isin(said_N, ends)[:, None] & np.isin(tokens_NE, ends)
            confidence.append(confidence_NE.astype(float))
            agrees.append((tokens_NE == said_N[:, None]) | both_end_NE)
        return cls(
            Recording(np.concatenate(confidence), np.concatenate(agrees)),
            checkpoint.config.exits,
            np.array([len(row.targets[0]) for row in asked.images.rows]),
            np.array([len(image.rows) for image in asked.images.images]),
        )

    @property
    def first_text_I(self) -> np.ndarray:
        """Where each image begins among all texts."""
        return np.concatenate(([0], np.cumsum(self.texts_I)[:-1]))

    def column_N(self, exits: Sequence[int], thresholds: Sequence[float]) -> np.ndarray:
        """Return the column of the exit that every token leaves at; `exits` may be some of all, full depth the last."""
        columns = [self.exits.index(layer) for layer in exits[:-1]]
        return column_left_at(self.recording.confidence_NE, list(zip(columns, thresholds, strict=True)))

    def differs_I(self, exits: Sequence[int], thresholds: Sequence[float]) -> np.ndarray:
        """Return of which images some text is not full depth's where tokens leave like that."""
        column_N = self.column_N(exits, thresholds)
        wrong_N = ~self.recording.agrees_NE[np.arange(len(column_N)), column_N]
        wrong_T = np.logical_or.reduceat(wrong_N, np.concatenate(([0], np.cumsum(self.steps_T)[:-1])))
        differs: np.ndarray = np.logical_or.reduceat(wrong_T, self.first_text_I)
        return differs

    def depths(self, exits: Sequence[int], thresholds: Sequence[float]) -> tuple[float, float]:
        """Return the layers that tokens leave at and those computed for them, means over full depth's tokens."""
        layer_N = np.array(self.exits)[self.column_N(exits, thresholds)]
        return float(layer_N.mean()), float(caught_up(layer_N, self.steps_T).mean())
