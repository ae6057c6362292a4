"""Where the models of a bench are. Nothing here imports torch."""

from pathlib import Path

from conf.bench import BenchConfig, BenchModel


def folder_of(config: BenchConfig, model: BenchModel) -> Path:
    return Path(config.work_dir) / "models" / f"{model.value}-{config.seed}"


def checkpoint_of(config: BenchConfig, model: BenchModel) -> Path:
    """Return our form of the model."""
    return Path(config.checkpoint) if model is BenchModel.SCENES else folder_of(config, model) / "ours"


def source_of(config: BenchConfig, model: BenchModel) -> Path:
    """Return what `transformers` loads."""
    return folder_of(config, model) / "hf"
