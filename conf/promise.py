"""Whether a run keeps a guarantee (conf/guarantee.py), and how it is audited: the only rules of both. No torch here."""

from dataclasses import replace
from pathlib import Path

from conf.checkpoint_info import CheckpointInfo
from conf.engine import EngineConfig, GenerationConfig, Schedule
from conf.errors import UserError
from conf.guarantee import DEFAULTS_ONLY, FILE, SCHEDULES, Guarantee, read_guarantee
from conf.resolve import NEVER, checkpoint_warnings, exits_that_can_fire
from conf.schema import BrokenPromise, JobConfig, ModelSection

USUAL_FRACTION = 0.01  # of the images of a run that has a promise to keep
_SAME_TEXTS = ("min_new_tokens", "no_repeat_ngram", "repetition_penalty", "bad_words", "bad_word_ids", "decoder_prefix",
               "prefix_ids", "loop_ngram", "loop_repeats")  # fmt: skip


def guarantee_of(model: ModelSection) -> Guarantee | None:
    """Return the one that a run is given, or that lies in its checkpoint; UserError where it cannot be read."""
    if model.guarantee is None:
        return read_guarantee(Path(model.checkpoint) / FILE)
    guarantee = read_guarantee(model.guarantee)
    if guarantee is None:
        raise UserError(f"model.guarantee={model.guarantee!r} is no file, and no folder with a {FILE}")
    return guarantee


def as_guaranteed(config: JobConfig, info: CheckpointInfo, guarantee: Guarantee | None) -> EngineConfig:
    """Return the engine with the thresholds of a guarantee that is named (model.guarantee), where none are given."""
    engine, model = config.engine, config.model
    if model.guarantee is None or guarantee is None or engine.exits is not None or engine.thresholds is not None:
        return engine
    if guarantee.weights_sha256 != info.weights_sha256:
        raise UserError(
            f"model.guarantee={model.guarantee!r} is about other weights than those of {model.checkpoint!r}"
        )
    return engine.model_copy(update={"thresholds": guarantee.thresholds})


def with_promise(
    config: JobConfig, info: CheckpointInfo, guarantee: Guarantee | None
) -> tuple[JobConfig, CheckpointInfo]:
    """Return the configuration with its audit settled, and what of the guarantee holds for the run.

    `config` with exits and thresholds filled in (conf.resolve). `audit.fraction` is None afterwards where nothing is
    audited. UserError for an audit that could not do what it is asked for.
    """
    wanted = config.audit.on_broken_promise
    if not leaves_early(config.engine):
        return _audited(config, 0.0), info
    if guarantee is not None:
        why = why_not(guarantee, config, info)
        where = config.model.guarantee or str(Path(config.model.checkpoint) / FILE)
        unclaimed = None if why is None else f"the guarantee in {where} is not claimed for this run: {why}"
        info = replace(info, promise=guarantee if why is None else None, unclaimed=unclaimed)
    fraction = config.audit.fraction
    if fraction is None:
        fraction = 0.0 if info.promise is None else USUAL_FRACTION
    if fraction and config.engine.schedule is Schedule.CONSENSUS:
        raise UserError(
            "audit.fraction: with engine.schedule=consensus rows wait for each other, so that one at full depth would "
            "keep others in; set 0, or another schedule"
        )
    if wanted is not BrokenPromise.WARN and (info.promise is None or not fraction):
        why = info.unclaimed or (
            "there is none: deed calibrate --risk makes one" if info.promise is None else "audit.fraction is 0"
        )
        raise UserError(f"audit.on_broken_promise={wanted.value} needs a promise that is audited; {why}")
    return _audited(config, fraction), info


def leaves_early(engine: EngineConfig) -> bool:
    """Return whether a text may be another than that of full depth; `engine` as `resolve` gives it."""
    can_fire = exits_that_can_fire(engine.exits, engine.thresholds)
    return engine.schedule is not Schedule.FULL and not engine.lossless and bool(can_fire)


def why_not(guarantee: Guarantee, config: JobConfig, info: CheckpointInfo) -> str | None:
    """Return in what the run is not what was tested, in a few words; None where it is."""
    engine, prompt, kind = config.engine, config.source.prompt.template, config.source.kind.value
    if guarantee.weights_sha256 != info.weights_sha256:
        return "it is about other weights"
    if config.model.dtype != "float32":
        return f"model.dtype={config.model.dtype}, it was tested with float32"
    if engine.schedule not in SCHEDULES:
        return f"engine.schedule={engine.schedule.value}, it was tested with texts that leave by themselves"
    for name in DEFAULTS_ONLY:
        if (value := getattr(engine, name)) != (tested := EngineConfig.model_fields[name].default):
            return f"engine.{name}={_plain(value)}, it was tested with {_plain(tested)}"
    ours = _that_fire(engine.exits or (), engine.thresholds or ())
    if ours != _that_fire(info.model.exits, guarantee.thresholds):
        return "exits or thresholds are others than those that were tested"
    if kind != guarantee.corpus.kind:
        return f"source.kind={kind}, it was tested on {guarantee.corpus.kind}"
    if guarantee.prompts and prompt not in guarantee.prompts:
        return f"the prompt is {prompt!r}, it was tested with {' and '.join(map(repr, guarantee.prompts))}"
    return _other_generation(guarantee, engine.generation)


def _other_generation(guarantee: Guarantee, ours: GenerationConfig) -> str | None:
    """A text that is cut sooner can only be equal sooner, so a lower limit keeps a promise about equal texts."""
    tested = guarantee.generation
    for name in _SAME_TEXTS:
        if (value := getattr(ours, name)) != (then := getattr(tested, name)):
            return f"engine.generation.{name}={_plain(value)}, it was tested with {_plain(then)}"
    limit, then = ours.max_new_tokens, tested.max_new_tokens
    if limit > then or (limit < then and guarantee.loss != "text_differs"):
        return f"engine.generation.max_new_tokens={limit}, it was tested with {then}"
    return None


def run_warnings(config: JobConfig, info: CheckpointInfo) -> list[str]:
    """Return what a run should be told before it starts, each in one sentence."""
    return [*checkpoint_warnings(config.engine, info.model), *([] if info.unclaimed is None else [info.unclaimed])]


def _audited(config: JobConfig, fraction: float) -> JobConfig:
    audit = config.audit.model_copy(update={"fraction": fraction or None})
    return config.model_copy(update={"audit": audit})


def _that_fire(exits: tuple[int, ...], thresholds: tuple[float, ...]) -> dict[int, float]:
    return {layer: t for layer, t in zip(exits, thresholds, strict=False) if t <= NEVER}


def _plain(value: object) -> str:
    return str(getattr(value, "value", value)) if value != "" else "none"
