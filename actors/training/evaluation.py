"""Run the engine over labelled rows and keep what it said, token by token, with its depth."""

from collections import Counter
from dataclasses import dataclass, replace

import torch

from actors.engine.request import Completion
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.training.pretrained.held_out import HeldOut
from actors.training.pretrained.spelling import learn_spelling
from actors.training.rows.row import Row, first_prompts
from actors.training.rows.row_source import RowSource
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig, GenerationConfig
from conf.errors import UserError
from conf.evaluation import LabelledConfig
from pipeline.source.plan import LeftOut


@dataclass(frozen=True)
class Prediction:
    """What was said of a row."""

    row: Row
    text: str
    completion: Completion


@dataclass(frozen=True)
class Labelled:
    """A checkpoint, and the rows it is to be scored on; `left_out` are those that cannot be used."""

    config: LabelledConfig
    checkpoint: Checkpoint
    images: HeldOut
    left_out: tuple[LeftOut, ...]

    def targets(self, generation: GenerationConfig) -> Targets:
        """Return what outputs begin with, and should go on with, under some options."""
        tasks = self.config.all_tasks
        positions = self.checkpoint.config.decoder.max_positions
        targets = Targets(self.checkpoint, tasks, [None] * len(tasks), positions)
        targets.generation = generation  # prefixes in tokens included
        return targets

    def with_targets(self, generation: GenerationConfig) -> tuple[HeldOut, Targets]:
        """Return the rows with what is right for each in tokens: the text that most of its references are."""
        targets = self.targets(generation)
        learn_spelling(targets, self.checkpoint, self.images, EngineConfig(generation=generation))
        images = []
        for image in self.images.images:
            rows = [row for row in map(targets.label, image.rows) if isinstance(row, Row)]
            if rows:
                usual = (replace(row, targets=(Counter(row.targets).most_common(1)[0][0],)) for row in rows)
                images.append(replace(image, rows=tuple(usual)))
        if not images:
            raise UserError("no prompt leaves room for an output, or all are longer than the model reads")
        return replace(self.images, images=tuple(images)), targets


def read_labelled(config: LabelledConfig) -> Labelled:
    """Load what a configuration names; UserError where there is nothing to score."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    checkpoint = load_checkpoint(config.checkpoint)
    source = RowSource(config, checkpoint.config.plan)
    found = source.readable(source.places)
    if not found:
        raise source.nothing("labelled images")
    images = tuple(first_prompts(image, config.prompts_per_image) for image in found)
    for name in config.group_by:
        if not any(name in row.fields for image in images for row in image.rows):
            raise UserError(f"group_by names {name!r}, which no sample has that is scored, nor any of its prompts")
    return Labelled(config, checkpoint, HeldOut(images, checkpoint.config.plan, config.preprocess), source.left_out)


def predict(labelled: Labelled, engine: EngineConfig, images: HeldOut) -> list[Prediction]:
    """Return what the engine says of every row of some images, in order."""
    checkpoint, generation = labelled.checkpoint, engine.generation
    targets = labelled.targets(generation)
    done = images.said(images.engine(checkpoint, targets, engine), targets, ahead=4 * engine.num_slots)
    texts = [checkpoint.codec.decode(completion.token_ids, generation.keep_special_tokens) for completion in done]
    return [Prediction(*each) for each in zip(images.rows, texts, done, strict=True)]
