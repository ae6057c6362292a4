"""Thresholds whose loss on a whole corpus is bounded, found on a random sample of it.

Learn-then-Test with fixed-sequence testing (Angelopoulos et al., arXiv 2110.01052, section 3): candidates are on a path
that does not depend on the images they are tested on, are tested from the strictest on, each at the full level, and
testing ends at the first one that fails. The first candidate that breaks the promise passes with a probability of at
most 1 - level, and none after it is looked at if it does not, so there is nothing to correct for. By betting it is the
same with another test; conformal risk control (arXiv 2208.02814) takes the last candidate that passes before one fails,
for losses that do not fall along the path, which is what the worst so far of each image is.

The recording tells without decoding of which images the texts change (recording.py); losses that depend on how need the
texts of those alone. What is chosen is then decoded for all of the sample, and its real losses must pass too: sums in
another order may move a confidence across a threshold.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import torch

from actors.engine.request import Completion
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.training.depth import computed_depth, mean_depth
from actors.training.exits.asked import Asked
from actors.training.exits.measure import leaving_at
from actors.training.guarantee.bounds import Judge
from actors.training.guarantee.groups import Group, groups_of
from actors.training.guarantee.losses import loss_of
from actors.training.guarantee.path import path_of
from actors.training.guarantee.recording import Recorded, Thresholds
from actors.training.guarantee.sample import Drawn, draw
from actors.training.thresholds import CLOSED, check_exits
from conf.engine import EngineConfig
from conf.evaluation import CalibrateConfig
from conf.guarantee import Guarantee, Loss
from conf.model import ModelConfig
from conf.resolve import exits_that_can_fire
from pipeline.source.plan import LeftOut


@dataclass(frozen=True)
class Step:
    """A candidate and how it did on the sample."""

    number: int  # on the path, from 1
    thresholds: Thresholds
    mean_loss: float
    bound: float
    accepted: bool
    mean_depth: float  # layers that tokens leave at
    computed_depth: float  # layers computed for a token, catching up included
    decoded: bool  # by the engine, not predicted by the recording


@dataclass(frozen=True)
class Outcome:
    """What was found; `guarantee` is None where nothing beyond full depth keeps the promise."""

    checkpoint: Checkpoint
    corpus_images: int
    path_images: int
    tested_images: int
    left_out: tuple[LeftOut, ...]
    guarantee: Guarantee | None = None
    mispredicted: int = 0  # images of which the recording was wrong about whether the text differs
    groups: tuple[Group, ...] = ()


def certify(
    config: CalibrateConfig, engine: EngineConfig, report: Callable[[str], None], on_step: Callable[[Step], None]
) -> Outcome:
    """Find the loosest thresholds that keep `config.guarantee`; `engine` is the configuration's with room for outputs.

    `report` takes lines for the user, `on_step` every candidate that is tested. UserError where nothing can be found.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    checkpoint = load_checkpoint(config.checkpoint, device="cuda" if cuda else "cpu")
    exits = exits_to_use(config, checkpoint.config)
    report("reading the source; full depth says its texts" if config.target.run is None else "reading source and run")
    drawn = draw(config, checkpoint, engine)
    found = Outcome(
        checkpoint, drawn.corpus.num_images, len(drawn.path.images), len(drawn.tested.images), drawn.left_out
    )
    report(f"{found.corpus_images:,} images; {found.tested_images:,} drawn to test on, {found.path_images:,} others to "
           "make thresholds by")  # fmt: skip
    if found.tested_images < config.guarantee.sample_images:
        report(f"of these {Judge.of(config.guarantee).allowed(found.tested_images)} may be lost")
    path = path_of(Recorded.of(drawn.path, drawn.engine), exits)
    search = Search(config, drawn, Recorded.of(drawn.tested, drawn.engine), exits)
    accepted: list[Step] = []
    for step in search.steps(path[1:]):
        if step.mean_depth < exits[-1]:  # others are full depth
            on_step(step)
        if step.accepted:
            accepted.append(step)
    if accepted:
        report(f"decoding {found.tested_images:,} images early")
    while accepted:
        step, completions, differs_I = search.decoded(accepted.pop())
        if step.mean_depth == exits[-1]:
            break
        on_step(step)
        if step.accepted:
            return replace(
                found,
                guarantee=_guarantee(config, drawn, exits, step),
                mispredicted=int((differs_I != search.recorded.differs_I(exits, step.thresholds)).sum()),
                groups=groups_of(drawn.tested, completions, search.last_loss_I, Judge.of(config.guarantee)),
            )
    return found


def exits_to_use(config: CalibrateConfig, model: ModelConfig) -> tuple[int, ...]:
    """Return those that are asked for, those that the checkpoint's thresholds leave open, or all."""
    exits = config.exits or (*exits_that_can_fire(model.exits, model.thresholds), model.exits[-1])
    if exits == model.exits[-1:]:
        exits = model.exits
    check_exits(exits, model, config.checkpoint)
    return exits


class Search:
    """Tests candidates on the sample, in order."""

    def __init__(self, config: CalibrateConfig, drawn: Drawn, recorded: Recorded, exits: tuple[int, ...]) -> None:
        self.loss, self.judge = config.guarantee.loss, Judge.of(config.guarantee)
        self.drawn, self.recorded, self.exits = drawn, recorded, exits
        self.last_loss_I = np.zeros(len(drawn.tested.images))
        self._worst: dict[int, np.ndarray] = {}  # by step: what conformal risk control counts

    def steps(self, path: tuple[Thresholds, ...]) -> Iterator[Step]:
        """Yield candidates up to the first one that fails, by the recording."""
        worst_I = np.zeros(len(self.drawn.tested.images))
        for number, thresholds in enumerate(path, start=1):
            loss_I = self._loss_I(thresholds)
            if self.judge.method == "conformal_risk_control":
                loss_I = worst_I = np.maximum(worst_I, loss_I)
                self._worst[number] = worst_I
            depths = self.recorded.depths(self.exits, thresholds)
            step = self._judged(number, thresholds, loss_I, depths, decoded=False)
            yield step
            if not step.accepted:
                return

    def decoded(self, step: Step) -> tuple[Step, list[Completion], np.ndarray]:
        """Return the candidate by what the engine really says of all images, that, and of which of them [I] it is not
        what full depth says."""
        completions = said_at(self.drawn.tested, self.drawn.engine, self.exits, step.thresholds)
        loss_I, differs_I = losses_of(self.loss, self.drawn.tested, completions)
        if step.number in self._worst:
            loss_I = np.maximum(loss_I, self._worst[step.number])
        self.last_loss_I = loss_I
        depths = mean_depth(completions), computed_depth(completions)
        return self._judged(step.number, step.thresholds, loss_I, depths, decoded=True), completions, differs_I

    def _loss_I(self, thresholds: Thresholds) -> np.ndarray:
        differs_I = self.recorded.differs_I(self.exits, thresholds)
        if self.judge.binary or not differs_I.any():
            return differs_I.astype(float)
        tested = self.drawn.tested
        few = tuple(image for image, differs in zip(tested.images.images, differs_I, strict=True) if differs)
        changed = replace(tested, images=replace(tested.images, images=few))
        completions = said_at(changed, _measuring_nothing(self.drawn.engine), self.exits, thresholds)
        loss_I = np.zeros(len(differs_I))
        loss_I[differs_I] = losses_of(self.loss, changed, completions)[0]
        return loss_I

    def _judged(
        self, number: int, thresholds: Thresholds, loss_I: np.ndarray, depths: tuple[float, float], *, decoded: bool
    ) -> Step:
        accepted, bound = self.judge.accepts(loss_I), self.judge.upper_bound(loss_I)
        bound = min(bound, self.judge.risk) if accepted else bound  # they are the same up to rounding
        return Step(number, thresholds, float(loss_I.mean()), bound, accepted, *depths, decoded)


def said_at(asked: Asked, engine: EngineConfig, exits: tuple[int, ...], thresholds: Thresholds) -> list[Completion]:
    """Return what the engine says of all rows where tokens leave like that."""
    made = asked.images.engine(asked.targets.checkpoint, asked.targets, leaving_at(engine, exits, thresholds))
    return asked.images.said(made, asked.targets, ahead=4 * engine.num_slots)


def _measuring_nothing(engine: EngineConfig) -> EngineConfig:
    """Return the engine for a few images, which are done before it has measured what visits cost."""
    return engine.model_copy(update={"tuning": engine.tuning.model_copy(update={"calibration_s": 0.0})})


def losses_of(loss: Loss, asked: Asked, completions: list[Completion]) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses [I] of images, those of their worst rows, and of which of them [I] some text differs."""
    codec, config = asked.targets.checkpoint.codec, asked.targets.checkpoint.config
    keep_special, done = asked.targets.generation.keep_special_tokens, iter(completions)
    losses, differ = [], []
    for image in asked.images.images:
        of_rows = []
        for row in image.rows:
            full = row.targets[0][:-1] if row.targets[0][-1] in config.end_ids else row.targets[0]
            early = next(done).token_ids
            if early != full:
                texts = (codec.decode(ids, keep_special) for ids in (early, full))
                of_rows.append(loss_of(loss, row, *texts))
        losses.append(max(of_rows, default=0.0))
        differ.append(bool(of_rows))
    return np.array(losses), np.array(differ)


def _guarantee(config: CalibrateConfig, drawn: Drawn, exits: tuple[int, ...], step: Step) -> Guarantee:
    promise, checkpoint = config.guarantee, drawn.tested.targets.checkpoint
    assert promise.risk is not None
    chosen = dict(zip(exits[:-1], step.thresholds, strict=True))
    return Guarantee(
        method=promise.method,
        loss=promise.loss,
        risk=promise.risk,
        level=None if promise.method == "conformal_risk_control" else promise.level,
        sample_images=len(drawn.tested.images),
        observed=step.mean_loss,
        bound=step.bound,
        exits=(*exits_that_can_fire(exits, step.thresholds), exits[-1]),
        thresholds=tuple(chosen.get(layer, CLOSED) for layer in checkpoint.config.exits[:-1]),
        corpus=drawn.corpus,
        prompts=tuple(task.prompt.template for task in config.all_tasks),
        generation=drawn.engine.generation,
        weights_sha256=checkpoint.sha256,
        seed=config.seed,
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
