"""What `deed convert` says of a conversion: what was read, what was believed, what will differ, what comes next."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.encoder import TransformersEncoderConfig
from conf.engine import GenerationConfig
from conf.licence import Licence, read_licence
from conf.text_rules import CAPTION_TASK

if TYPE_CHECKING:
    from actors.model.interop.conversion import Converted
    from conf.model import ModelConfig

_INDENT, _MOST_COLUMNS = 12, 100


def describe(converted: "Converted", output: Path) -> list[str]:
    """Return the lines, one for every fact: on a terminal they are wrapped, in a log they are not."""
    from actors.model.encoders import tied_names
    from actors.model.interop.families import family_of

    config = converted.config
    copies = tied_names(config)
    num_values = sum(tensor.numel() for name, tensor in converted.state.items() if name not in copies)
    assert isinstance(config.encoder, TransformersEncoderConfig)
    dtype = str(converted.state["decoder.embedding.weight"].dtype).removeprefix("torch.")
    read = [
        f"{config.encoder.model_type}: {num_values / 1e6:,.1f} M values in {dtype}, {config.decoder.num_layers} "
        "decoder layers",
        f"{config.decoder.vocab_size:,} tokens",
    ]
    if family_of(config.encoder.hf_config).reads_images:
        read.append(f"images are {config.plan.summary}")
    generation = config.generation
    ends = " or ".join(map(str, config.end_ids))
    believed = [f"outputs start with {config.start_id}, end with {ends}, are padded with {config.pad_id}"]
    if generation.forced_bos_id is not None:
        believed.append(f"the first token is always {generation.forced_bos_id}")
    if generation.no_repeat_ngram:
        believed.append(f"no {generation.no_repeat_ngram} tokens in a row come twice")
    if generation.min_new_tokens:
        believed.append(f"no output ends before {generation.min_new_tokens} tokens")
    if generation.banned_ids:
        believed.append(f"{len(generation.banned_ids)} tokens or sequences of tokens are never said")
    untrained = list(config.untrained_exits)
    exits = (
        f"exits {untrained} are untrained: run with engine.schedule=full, or train them with deed train, "
        "mode=deep_supervision or frozen; full depth is the original model"
    )
    rows = [
        ("read", read),
        ("believed", [*believed, *converted.believed]),
        ("differs", converted.differences or ["nothing that is known"]),
        *([("licence", [_licence(licence)])] if (licence := read_licence(output)) is not None else []),
        ("exits", [exits if untrained else "none but the full depth, which is the original model"]),
        ("next", [next_command(config, output)]),
    ]
    return [str(output), *_table(rows)]


def _licence(licence: Licence) -> str:
    return f"{licence}, {licence.link}" if licence.link else f"{licence}, as the source says of itself"


def next_command(config: "ModelConfig", output: Path) -> str:
    """Return the shell line that captions a folder with a new checkpoint as the original would."""
    parts = ["deed", "caption", "FOLDER_OF_IMAGES", "--checkpoint", str(output), "--out", "runs/captions"]
    if CAPTION_TASK in config.text.tasks:
        parts += ["--prompt", CAPTION_TASK]
    elif config.plan.draws_prompt:
        parts += ["--prompt", "YOUR QUESTION"]
    parts += ["--set", "engine.schedule=full"]
    default = GenerationConfig().max_new_tokens
    if config.decoder.max_positions < default:
        parts += ["--set", f"engine.generation.max_new_tokens={config.decoder.max_positions}"]
    return shlex.join(parts)


def _table(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    width = min(_MOST_COLUMNS, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    lines = []
    for title, facts in rows:
        for n, fact in enumerate(facts):
            start = f"  {'' if n else title:<{_INDENT - 2}}"
            wrap = width is not None and title != "next"  # a command is copied whole
            parts = textwrap.wrap(fact, width - _INDENT, break_long_words=False) if wrap and width else [fact]
            lines += [(" " * _INDENT if k else start) + part for k, part in enumerate(parts)]
    return lines
