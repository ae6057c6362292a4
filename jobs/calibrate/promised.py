"""`deed calibrate --risk`: thresholds with a guarantee, in words and tables that say what it is about."""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.evaluation import CalibrateConfig
from conf.guarantee import Guarantee, write_guarantee
from jobs.shared.row_arguments import say_what_is_left_out

if TYPE_CHECKING:
    from actors.training.guarantee.bounds import Judge
    from actors.training.guarantee.certify import Outcome, Step
    from actors.training.guarantee.groups import Group

_LOSSES = {
    "text_differs": ("the text is not full depth's", "share of images whose text is not full depth's"),
    "dissimilarity": ("1 - ROUGE-L against full depth's text", "mean of 1 - ROUGE-L against full depth's text"),
    "points_lost": ("how much worse than full depth's the text is", "mean of what texts lose against full depth's"),
}
HEADER = f"{'step':>4} {'depth':>6} {'computed':>8} {'loss':>8} {'bound':>8} {'':<9}  thresholds"


def calibrate(config: CalibrateConfig) -> int:
    """Look for thresholds that keep the promise and write them with it; return the exit code."""
    from actors.training.guarantee.bounds import Judge

    judge = Judge.of(config.guarantee)
    judge.check(config.guarantee.sample_images)
    print("\n".join(prospects(judge, config)), flush=True)

    from conf.checkpoint_files import read_model_config
    from jobs.shared.converted_checkpoint import with_room_for_outputs

    folder, engine = Path(config.checkpoint), config.engine
    if config.decoder_prefix:
        generation = engine.generation.model_copy(update={"decoder_prefix": config.decoder_prefix})
        engine = engine.model_copy(update={"generation": generation})
    engine = with_room_for_outputs(engine, read_model_config(folder), folder)

    from actors.training.guarantee.certify import certify

    print_step = StepPrinter()
    found = certify(config, engine, lambda line: print(line, flush=True), print_step)
    say_what_is_left_out(found.left_out, "not looked at")
    if found.guarantee is None:
        print(
            f"no thresholds keep a risk of {judge.risk:g} {judge.certainty} on these {found.tested_images:,} images; "
            "nothing is written. Full depth (engine.schedule=full) needs no promise; a larger risk, more images "
            "(guarantee.sample_images) or more training may allow one"
        )
        return 1
    print("\n".join(verdict(found, found.guarantee, judge)))
    print(f"written to {write(found, found.guarantee, folder, config.output)}")
    return 0


def prospects(judge: "Judge", config: CalibrateConfig) -> list[str]:
    """Say what is looked for, and how likely it is to be found."""
    images = config.guarantee.sample_images
    allowed = judge.allowed(images)
    assert allowed is not None, "they have been checked"
    loss, _ = _LOSSES[config.guarantee.loss]
    lost = f"{allowed} may" if judge.binary else f"as much as {allowed} whole texts may"
    return [
        f"loss of an image: {loss}, for the worst of its prompts; wanted: at most {judge.risk:g} in the mean of all "
        f"images, {judge.certainty}",
        f"of {images:,} images {lost} be lost; where thresholds lose half the risk, {judge.risk / 2:g}, that succeeds "
        f"with probability {judge.chance(images, judge.risk / 2):.2f}",
    ]


class StepPrinter:
    """Prints candidates as they are tested."""

    def __init__(self) -> None:
        self._decoded: bool | None = None

    def __call__(self, step: "Step") -> None:
        if step.decoded is not self._decoded:
            what = "by really decoding:" if step.decoded else "from strict to loose, predicted from full depth's texts:"
            print(f"{what}\n{HEADER}" if self._decoded is None else what)
            self._decoded = step.decoded
        thresholds = " ".join(f"{threshold:.4f}" if threshold <= 1 else "closed" for threshold in step.thresholds)
        kept = "kept" if step.accepted else "NOT kept"
        print(
            f"{step.number:>4} {step.mean_depth:>6.2f} {step.computed_depth:>8.2f} {step.mean_loss:>8.3%} "
            f"{step.bound:>8.3%} {kept:<9}  {thresholds}",
            flush=True,
        )


def verdict(found: "Outcome", guarantee: Guarantee, judge: "Judge") -> list[str]:
    """Say what is promised, about what, how sure, and what of it varies."""
    _, mean = _LOSSES[guarantee.loss]
    lines = [""]
    if found.mispredicted:
        lines.append(
            f"note: of {found.mispredicted} images the prediction was wrong about whether the text changes; what was "
            "decoded counts"
        )
    lines += [
        f"{guarantee.observed:.3%} observed, at most {guarantee.bound:.3%} {judge.certainty}: the {mean},",
        f"over all images of {', '.join(guarantee.corpus.paths)} that can be read ({found.corpus_images:,} listed, the "
        f"{found.path_images:,} that thresholds were made by aside), with exits {list(guarantee.exits)}.",
        "Another corpus, prompt, option or checkpoint is not covered. It is a mean: some kinds of images lose more.",
    ]  # fmt: skip
    for by, title in (("layer", "mean layer that tokens leave at"), ("tokens", "tokens of full depth's text")):
        lines += ["", f"{title:<34} {'images':>6} {'loss':>8}  {judge.level:.0%} interval"]
        lines += [_group(group) for group in found.groups if group.by == by]
    return [*lines, ""]


def _group(group: "Group") -> str:
    digits = 2 if group.by == "layer" else 0
    span = f"{group.least:.{digits}f} to {group.most:.{digits}f}"
    return f"  {span:<32} {group.images:>6} {group.mean_loss:>8.3%}  {group.low:.3%} to {group.high:.3%}"


def write(found: "Outcome", guarantee: Guarantee, folder: Path, output: str | None) -> str:
    """Put thresholds and guarantee into the checkpoint, or the guarantee alone into a file; return where they are."""
    from actors.training.thresholds import write_thresholds

    if output is not None:
        return str(write_guarantee(guarantee, output))
    config = write_thresholds(found.checkpoint, folder, guarantee.thresholds)
    return f"{write_guarantee(guarantee, folder)}, thresholds to {config}"
