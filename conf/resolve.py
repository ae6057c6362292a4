"""What a run uses, of its settings and of its checkpoint's: the only rules of exits, thresholds, lengths and sizes.

Nothing here imports torch. Where the threshold of a given token is applied: Scheduler.exits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from conf.engine import CrossAttention, EngineConfig, Gate, GenerationConfig, Schedule
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.model import ModelConfig
from conf.schema import PreprocessConfig
from conf.source import SourceConfig

_LEAST_PROMPT_ROOM, _MOST_PROMPT_ROOM = 32, 64  # tokens
NEVER = 1.0  # no confidence is above it, so an exit whose threshold is higher can never fire


@dataclass(frozen=True, slots=True)
class Decay:
    """CALM's falling threshold (arXiv 2207.07061, section 3.5): early tokens, which all later ones read, need more.

    threshold(t) = min(1, 0.9 * threshold + 0.1 * exp(-rate * t / horizon)) at position t.
    """

    rate: float
    horizon: int  # the longest output, in tokens

    def at(self, threshold: float, position: int) -> float:
        """Return the threshold at `position`; 0 (always leave) and those above 1 (never leave) stay what they are."""
        if threshold > NEVER or threshold <= 0:
            return threshold
        return min(NEVER, 0.9 * threshold + 0.1 * math.exp(-self.rate * position / self.horizon))


def threshold_at(threshold: float, position: int, decay: Decay | None) -> float:
    return threshold if decay is None else decay.at(threshold, position)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings and checkpoint, put together."""

    settings: EngineConfig  # as given, the checkpoint's exits and thresholds filled in
    exit_layers: tuple[int, ...]  # where tokens may leave, without exits that cannot fire; the last is the full depth
    thresholds: tuple[float, ...]  # one per exit layer but the last
    decay: Decay | None  # how thresholds fall along an output
    max_new_tokens: int  # longest output
    max_prefix: int  # longest decoder prefix, tokens


def resolve(model: ModelConfig, engine: EngineConfig) -> Resolved:
    """Return what an engine with this model and these settings runs with; UserError where the two do not fit."""
    if model.decoder.merged is not None and engine.tuning.cross is CrossAttention.ABSORBED:
        raise UserError(
            "engine.tuning.cross=absorbed is for models whose keys are plain projections of the encoder states; this "
            "one normalises them, set auto or projected"
        )
    generation = engine.generation
    assert not generation.has_texts, "texts become token ids first: actors/engine_factory.py"
    exits = _chosen_exits(model, engine)
    thresholds = _chosen_thresholds(model, engine, exits)
    max_prefix = _longest_prefix(model, generation)
    settings = engine.model_copy(update={"exits": exits, "thresholds": thresholds})
    exit_layers = exits[-1:]
    if engine.schedule is not Schedule.FULL:
        exit_layers = (*exits_that_can_fire(exits, thresholds), *exit_layers)
    limit, rate = generation.max_new_tokens, engine.threshold_decay
    return Resolved(
        settings=settings,
        exit_layers=exit_layers,
        thresholds=tuple(t for layer, t in zip(exits, thresholds or (), strict=False) if layer in exit_layers),
        decay=None if rate is None else Decay(rate, limit),
        max_new_tokens=limit,
        max_prefix=max_prefix,
    )


def exits_that_can_fire(exits: Sequence[int] | None, thresholds: Sequence[float] | None) -> tuple[int, ...]:
    """Return the exits before full depth at which a token may leave; segments that others end are one visit."""
    return tuple(e for e, threshold in zip(exits or (), thresholds or (), strict=False) if threshold <= NEVER)


def untrained_exits_warning(settings: EngineConfig, model: ModelConfig) -> str | None:
    """Return one sentence if tokens may leave at exits nothing has trained; None where full depth has the last word.

    `settings` as `resolve` gives them.
    """
    guesses = [e for e in exits_that_can_fire(settings.exits, settings.thresholds) if e in model.untrained_exits]
    if settings.schedule is Schedule.FULL or settings.lossless or not guesses:
        return None
    return (
        f"exits {guesses} of the checkpoint are untrained, tokens that leave there are guesses; train them with deed "
        "train, mode=deep_supervision or frozen, or set engine.schedule=full"
    )


def points_lost_warning(model: ModelConfig) -> str | None:
    """Return one sentence if full depth is worse than before it was trained by more than was allowed; else None."""
    if model.points_lost is None:
        return None
    return (
        f"full depth of this checkpoint lost {round(model.points_lost, 2):g} points in training, beyond what was "
        "allowed; its README.md has the figures, and training with mode=frozen would have kept it as it was"
    )


def checkpoint_warnings(settings: EngineConfig, model: ModelConfig) -> list[str]:
    """Return what a run should be told about its checkpoint, each in one sentence; `settings` as `resolve` gives
    them."""
    found = (points_lost_warning(model), untrained_exits_warning(settings, model))
    return [warning for warning in found if warning is not None]


def check_token_ids(what: str, token_ids: Sequence[int], model: ModelConfig) -> None:
    """Raise ValueError for the first id outside of the vocabulary: in a batch it would take its neighbours along."""
    size = model.decoder.vocab_size
    stranger = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
    if stranger is not None:
        raise ValueError(f"{what} has the token id {stranger}, the vocabulary's ids are 0 to {size - 1}")


def _chosen_exits(model: ModelConfig, engine: EngineConfig) -> tuple[int, ...]:
    exits = model.exits if engine.exits is None else engine.exits
    if any(layer not in model.exits for layer in exits):
        raise UserError(f"engine.exits {list(exits)} must be among the checkpoint's exits {list(model.exits)}")
    if exits[-1:] != (model.decoder.num_layers,):
        raise UserError(f"engine.exits {list(exits)} must end with the full depth, {model.decoder.num_layers}")
    return exits


def _chosen_thresholds(model: ModelConfig, engine: EngineConfig, exits: tuple[int, ...]) -> tuple[float, ...] | None:
    """Return one per exit but the last; None at full depth, where the checkpoint has none."""
    leaves_early, learned = engine.schedule is not Schedule.FULL, engine.gate is Gate.CLASSIFIER
    if learned and leaves_early and not model.gates:
        raise UserError(
            "engine.gate=classifier needs a checkpoint with learned gates; deed train adds them (optimizer.gate_steps)"
        )
    thresholds = engine.thresholds
    own = model.gate_thresholds if learned else model.thresholds
    if thresholds is None and own is not None:
        calibrated = dict(zip(model.exits[:-1], own, strict=True))
        thresholds = tuple(calibrated[layer] for layer in exits[:-1])
    if thresholds is None and leaves_early and len(exits) > 1:
        raise UserError(
            "the checkpoint has no calibrated thresholds; give engine.thresholds or set engine.schedule=full"
        )
    if thresholds is not None and len(thresholds) != len(exits) - 1:
        raise UserError(
            f"engine.thresholds must have one value per exit but the last, got {len(thresholds)} for {list(exits)}"
        )
    return thresholds


def room_for_prompts(generation: GenerationConfig, positions: int) -> int:
    """Return the room for prefixes that hold a prompt, tokens: what is left of a decoder's positions, within limits, as
    every sequence in flight has memory for it."""
    if generation.max_prefix_tokens is not None:
        return generation.max_prefix_tokens
    return max(_LEAST_PROMPT_ROOM, min(_MOST_PROMPT_ROOM, positions - generation.max_new_tokens))


def _longest_prefix(model: ModelConfig, generation: GenerationConfig) -> int:
    """Return it in tokens; UserError where the decoder has no positions for it and the longest output."""
    prefix, longest = len(generation.prefix_ids), generation.longest_prefix
    if longest < prefix:
        raise UserError(f"the decoder's prefix has {prefix} tokens, max_prefix_tokens={longest} allows fewer")
    try:
        check_token_ids("the decoder's prefix", generation.prefix_ids, model)
    except ValueError as error:
        raise UserError(str(error)) from None
    limit, positions = generation.max_new_tokens, model.decoder.max_positions
    if limit + longest > positions:
        with_prefix = f" with a prefix of {longest} tokens" if longest and limit <= positions else ""
        raise UserError(
            f"engine.generation.max_new_tokens={limit}{with_prefix} is more than the checkpoint's {positions}"
        )
    return longest


_PROMPTS_OF_IMAGE = 8  # as a chunk is made room for, where every prompt has pixels of its own


def image_plan(model: ModelConfig, preprocess: PreprocessConfig) -> ImagePlan:
    """Return what is done to every image of a run."""
    plan = model.plan
    if preprocess.scaled_decode is not None:
        plan = plan.model_copy(update={"scaled_decode": preprocess.scaled_decode})
    return plan if preprocess.header_font is None else plan.drawn_in(preprocess.header_font)


def rows_of_chunk(source: SourceConfig, plan: ImagePlan) -> int:
    """Return the samples of a chunk: as many as asked for, unless their pixels would take more than chunk_bytes."""
    images = _PROMPTS_OF_IMAGE if plan.draws_prompt and source.prompt.list_field is not None else 1
    return max(1, min(source.chunk_rows, source.chunk_bytes // max(1, images * plan.most_bytes)))
