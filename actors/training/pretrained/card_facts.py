"""The facts of a model card that are one line each: what the model is, what it was trained on, how and where."""

from collections.abc import Iterator
from urllib.parse import quote

from actors.training.pretrained.record import DataFacts, TargetFacts, TrainingFacts, TrainingRecord
from conf.licence import SOURCE_FOLDER
from conf.rows import USUAL_FIELDS
from pipeline.report.number_formats import count, number, seconds
from pipeline.report.safe_text import markdown, visible
from pipeline.source.left_out import in_words
from pipeline.source.plan import LeftOut

_LOSS_WEIGHTS = {
    "mean_plus_last": "the mean of all exits and the last once more",
    "mean": "the mean of all exits",
    "index": "every exit in proportion to its layer",
}
_PARTS = {
    "decoder": "the decoder with its embeddings and head",
    "everything": "encoder and decoder",
    "low_rank": "updates of rank {rank}, merged into the matrices",
}


def facts_of(record: TrainingRecord, plain: bool) -> Iterator[tuple[str, str]]:
    model, source, data, hardware = record.model, record.source, record.data, record.hardware
    yield (
        "model",
        f"{markdown(model.encoder)} encoder; {markdown(model.family)} decoder of {model.decoder_layers} layers, width "
        f"{count(model.width)}, {count(model.vocabulary)} tokens",
    )
    trained = (
        "" if model.trained_parameters is None else f", of which {_millions(model.trained_parameters)} were trained"
    )
    yield "parameters", _millions(model.parameters) + trained
    yield "made from", f"{code(source.checkpoint)}, weights with the SHA-256 {code(source.weights_sha256)}"
    if source.licence is not None:
        said = markdown(source.licence_name or source.licence)
        yield (
            "licence",
            said
            if source.licence_link is None
            else f"[{said}]({quote(link_from(source.licence_link, plain), safe='/:%?=&#;,+~@')})",
        )
    yield "data", f"{markdown(data.kind)}: {', '.join(map(code, data.paths))}"
    yield "images", _images(data)
    if data.left_out:
        yield "left out", "; ".join(markdown(in_words(LeftOut(part.reason, part.count))) for part in data.left_out)
    if data.targets:
        yield "learned", "; ".join(_target(target) for target in data.targets)
    yield "training", _training(record.training)
    if loss := _loss(record.training):
        yield "loss", loss
    if record.training.rates:
        yield "highest rates", ", ".join(f"{markdown(part)} {rate:g}" for part, rate in record.training.rates.items())
    machine = hardware.device
    threads = f", {hardware.threads} thread{'' if hardware.threads == 1 else 's'}" if hardware.gpu is None else ""
    yield (
        "hardware",
        f"{'' if machine is None else markdown(machine)}{threads}; torch {markdown(hardware.torch)}, "
        f"{record.training.precision}".removeprefix(", "),
    )
    if hardware.seconds is not None:
        workers = "one worker" if hardware.workers == 1 else f"{hardware.workers} workers"
        yield "time", f"{seconds(hardware.seconds)} of training, {workers}"


def _images(data: DataFacts) -> str:
    parts = (
        (data.training_images, data.training_rows, "to learn from"),
        (data.validation_images, data.validation_rows, "to choose by"),
        (data.test_images, data.test_rows, "to report on"),
    )
    return ", ".join(
        f"{count(images)}{'' if rows is None else f' ({count(rows)} rows)'} {what}" for images, rows, what in parts
    )


def _target(target: TargetFacts) -> str:
    asked = f", asked each of {code(target.prompt_field)}" if target.prompt_field is not None else ""
    if target.prompt_field is None and target.prompt is not None:
        asked = f", asked {code(target.prompt)}"
    if target.field is not None:
        usual = target.field == USUAL_FIELDS
        return f"labels, under the names that data sets use{asked}" if usual else f"labels, {code(target.field)}{asked}"
    if target.template is not None:
        return f"labels, {code(target.template)}{asked}"
    whose = {True: "the model's own texts", False: "another model's texts", None: "texts of a run"}[target.own_texts]
    depth = " at full depth" if target.full_depth else ""
    run = "" if target.run is None else f" ({code(target.run)})"
    return f"{whose}{depth}{run}{asked}"


def _training(training: TrainingFacts) -> str:
    what = "the exits alone"
    if training.mode != "frozen" and training.parts is not None:
        what = _PARTS[training.parts].format(rank=training.low_rank) + ", and the exits"
    steps = count(training.steps)
    if training.steps != training.planned_steps:
        steps += f" of {count(training.planned_steps)} planned"
    gates = f", {count(training.gate_steps)} of them for learned gates" if training.gate_steps else ""
    mean = f"; a running mean of weights ({training.ema:g}) is what is shipped" if training.ema else ""
    return f"{what}: {steps} steps{gates}, {count(training.images_per_step)} images each, seed {training.seed}{mean}"


def _loss(training: TrainingFacts) -> str:
    said = []
    if training.loss_weights == "coefficient":
        said.append(f"the last exit, and {number(training.coefficient)} of every other")
    elif training.loss_weights is not None:
        said.append(_LOSS_WEIGHTS[training.loss_weights])
    if training.soft is not None:
        said.append(
            f"{100 * training.soft:g} % of what the others learn is the last exit's distribution"
            if training.soft
            else "targets alone, nothing of the last exit's distribution"
        )
    if training.stop_head_gradient:
        said.append("the others do not move the head they share")
    if training.layer_dropout:
        said.append(f"layers are skipped, the last one in {100 * training.layer_dropout:g} % of rows")
    return "; ".join(said)


def link_from(link: str, plain: bool) -> str:
    return link.removeprefix(f"{SOURCE_FOLDER}/") if plain else link


def _millions(value: int) -> str:
    return f"{number(value / 1e6)} M" if value >= 1e6 else f"{number(value / 1e3)} k"


def code(text: str, *, in_table: bool = True) -> str:
    """Return a text as code, which shows it as it is."""
    shown = visible(text).replace("`", "'")
    if in_table:
        shown = shown.replace("|", "\\|")
    return f"`{shown}`"
