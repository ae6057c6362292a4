"""`--checkpoint` that names a model directory of `transformers`: converted into a cache, at full depth."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from conf.checkpoint_files import is_transformers_directory, read_model_config
from conf.engine import EngineConfig, Schedule
from conf.model import ModelConfig
from conf.source import PromptConfig
from conf.text_rules import CAPTION_TASK

if TYPE_CHECKING:
    from conf.schema import JobConfig

Job = TypeVar("Job", bound="JobConfig")

FOLDER = ".deed-checkpoints"
_UNFINISHED = ".unfinished-"
_ABANDONED_S = 86_400.0
_FORMAT = 2  # goes up when a conversion gives something else


def with_own_checkpoint(config: Job) -> Job:
    """Return the configuration with a checkpoint in place of a `transformers` directory; others as they are.

    Its exits are untrained, so the schedule is `full` unless the user has set one; a model of tasks is asked for a
    caption unless the user asks something; outputs are as long as the decoder has positions for, where nobody says.
    """
    source = Path(config.model.checkpoint)
    if not is_transformers_directory(source):
        return config
    checkpoint = converted_checkpoint(source, cache_folder(config.output.path))
    engine, depth = config.engine, "as engine.schedule says"
    if "schedule" not in engine.model_fields_set:
        engine, depth = engine.model_copy(update={"schedule": Schedule.FULL}), "at full depth, as the original does"
    model = read_model_config(checkpoint)
    length = ""
    if "max_new_tokens" not in engine.generation.model_fields_set:
        most, engine = engine.generation.max_new_tokens, with_room_for_outputs(engine, model, checkpoint)
        limit = engine.generation.max_new_tokens
        length = "" if limit == most else f", outputs of at most {limit} tokens"
    prompt = asked_a_caption(config.source.prompt, model)
    asked = "" if prompt is config.source.prompt else f", asked {prompt.template}"
    print(f"deed: {source} runs as {checkpoint}, {depth}{asked}{length}; its exits are untrained", file=sys.stderr)
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"checkpoint": str(checkpoint)}),
            "engine": engine,
            "source": config.source.model_copy(update={"prompt": prompt}),
        }
    )


def asked_a_caption(prompt: PromptConfig, model: ModelConfig) -> PromptConfig:
    """Return the prompt itself, or the task of captions where the model knows tasks and the user asks nothing."""
    if "template" in prompt.model_fields_set or CAPTION_TASK not in model.text.tasks:
        return prompt
    return prompt.model_copy(update={"template": CAPTION_TASK})


def with_room_for_outputs(engine: EngineConfig, model: ModelConfig, checkpoint: str | Path) -> EngineConfig:
    """Return the engine's settings, with outputs no longer than the decoder has positions for."""
    from actors.generation_texts import tokenized_for

    generation = engine.generation
    most = model.decoder.max_positions - tokenized_for(generation, model, checkpoint).longest_prefix
    limit = min(generation.max_new_tokens, max(1, most))
    return engine.model_copy(update={"generation": generation.model_copy(update={"max_new_tokens": limit})})


def cache_folder(output: str) -> Path:
    """Beside a local output, where the machines that share it find it; for an output elsewhere in the user's cache."""
    if "://" not in output:
        return Path(output).absolute().parent / FOLDER
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) / "deed" / "checkpoints"


def converted_checkpoint(source: Path, cache: Path) -> Path:
    """Return the conversion of this very source, made now if the cache has none; it is there whole or not at all."""
    from jobs.shared.conversion import convert_directory, model_name, writing

    target = cache / f"{model_name(source)}-{_identity(source)}"
    if target.is_dir():
        return target
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache))
    try:
        converted = convert_directory(source, unfinished)
        for note in (*converted.believed, *converted.differences):
            print(f"deed: note: {note}", file=sys.stderr)
        unfinished.chmod(0o755)  # a temporary folder is closed to others
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # another run was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _remove_abandoned(cache: Path) -> None:
    """Remove what killed conversions have left; none that is still at work is as old."""
    for folder in cache.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _identity(source: Path) -> str:
    """Names, sizes and times of the files: reading gigabytes before every run would take longer than converting."""
    files = [
        (str(file.relative_to(source)), (stat := file.stat()).st_size, stat.st_mtime_ns)
        for file in sorted(source.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(source).parts)
    ]
    return hashlib.sha256(json.dumps([_FORMAT, files]).encode()).hexdigest()[:12]
