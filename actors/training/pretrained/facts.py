"""Where the parts of a training record come from: the checkpoint, the configuration, the runs, this machine."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from actors.model.checkpoint import Checkpoint
from actors.training.pretrained.record import (
    DataFacts,
    HardwareFacts,
    LeftOutFacts,
    ModelFacts,
    SourceFacts,
    TargetFacts,
    TrainingFacts,
    TrainingRecord,
)
from conf.checkpoint_files import read_model_config, weights_sha256
from conf.encoder import TransformersEncoderConfig
from conf.engine import Schedule
from conf.licence import read_licence
from conf.pretrained import PretrainedConfig
from conf.rows import TaskConfig
from pipeline.output.run_record import cpu_model
from pipeline.report.folder import RunFolder
from pipeline.source.plan import LeftOut


def model_facts(checkpoint: Checkpoint, trained_parameters: int | None = None) -> ModelFacts:
    """Return what a checkpoint is; of one that trains, that is what it ships, without factors of low rank."""
    config = checkpoint.config
    encoder = config.encoder
    return ModelFacts(
        name=config.name,
        family=config.family,
        encoder=encoder.model_type if isinstance(encoder, TransformersEncoderConfig) else encoder.kind,
        decoder_layers=config.decoder.num_layers,
        width=config.decoder.d_model,
        vocabulary=config.decoder.vocab_size,
        exits=config.exits,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),  # each of them once
        trained_parameters=trained_parameters,
    )


def source_facts(checkpoint: str) -> SourceFacts:
    """Return what is known of the checkpoint that training begins with; UserError where it is damaged."""
    folder = Path(checkpoint)
    licence, earlier = read_licence(folder), TrainingRecord.read(folder)
    name = read_model_config(folder).name if earlier is None else earlier.source.base_model
    return SourceFacts(
        checkpoint=checkpoint,
        weights_sha256=weights_sha256(folder),
        base_model=name,
        licence=None if licence is None else licence.id,
        licence_name=None if licence is None else licence.name,
        licence_link=None if licence is None else licence.link,
        retrained=earlier is not None and earlier.full_depth_moved,
    )


def data_facts(
    config: PretrainedConfig, runs: Sequence[str | None], weights: str, left_out: Sequence[LeftOut], *,
    training: tuple[int, int | None], validation: tuple[int, int | None], test: tuple[int, int | None],
) -> DataFacts:  # fmt: skip
    """Return what was read. `runs` and `weights`: for each task without labels its run, and the SHA-256 of the
    checkpoint that training began with; `training`, `validation`, `test`: images, and rows where they were counted.

    Names of files that were left out are nobody's business, and neither is what opens a URL.
    """
    return DataFacts(
        kind=config.source.kind.value,
        paths=tuple(map(_without_secrets, config.source.paths)),
        training_images=training[0], training_rows=training[1],
        validation_images=validation[0], validation_rows=validation[1],
        test_images=test[0], test_rows=test[1],
        left_out=tuple(LeftOutFacts(reason=part.reason, count=part.count) for part in left_out),
        targets=tuple(_target(task, run, weights) for task, run in zip(config.all_tasks, runs, strict=True)),
    )  # fmt: skip


def _without_secrets(path: str) -> str:
    """Return a URL without user, password and query, which may sign it; a path as it is."""
    if "://" not in path:
        return path
    return re.sub(r"://[^/@]*@", "://", path.partition("?")[0])


def _target(task: TaskConfig, run: str | None, weights: str) -> TargetFacts:
    asked = {"prompt": task.prompt.template, "prompt_field": task.prompt.list_field}
    if run is None:
        return TargetFacts(**asked, field=task.target.field, template=task.target.template)
    record = RunFolder(run).read_record() or {}
    theirs, engine = record.get("weights_sha256"), (record.get("config") or {}).get("engine")
    return TargetFacts(
        **asked,
        run=_without_secrets(run),
        own_texts=None if theirs is None else theirs == weights,
        full_depth=None if engine is None else engine["schedule"] == Schedule.FULL or bool(engine.get("lossless")),
    )


def training_facts(
    config: PretrainedConfig, *, steps: int, bfloat16: bool, rates: dict[str, float] | None = None
) -> TrainingFacts:
    """Return how a model was trained. `rates`: the highest ones, of the parts that did train."""
    o, loss = config.optimizer, config.loss
    common = TrainingFacts(
        mode=config.mode,
        steps=steps,
        planned_steps=o.total_steps + o.gate_steps,
        gate_steps=o.gate_steps or None,
        images_per_step=o.batch_images,
        precision="bfloat16" if bfloat16 else "float32",
        seed=config.seed,
        rates=rates or {},
        ema=o.ema or None,
    )
    if config.is_frozen:
        return common
    supervised = {
        "parts": config.parts,
        "low_rank": config.low_rank.rank if config.parts == "low_rank" else None,
        "loss_weights": loss.weights,
        "coefficient": loss.coefficient if loss.weights == "coefficient" else None,
        "soft": loss.soft,
        "stop_head_gradient": loss.stop_head_gradient,
        "layer_dropout": loss.layer_dropout,
    }
    return common.model_copy(update=supervised)


def hardware_facts(device: torch.device, workers: int, seconds: float | None = None) -> HardwareFacts:
    """Return what this process runs on."""
    return HardwareFacts(
        torch=torch.__version__,
        workers=workers,
        threads=torch.get_num_threads(),
        cpu=cpu_model(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        seconds=seconds,
    )
