"""A model directory of `transformers` -> a checkpoint directory, for every command that may be given one."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conf.licence import SOURCE_FOLDER

if TYPE_CHECKING:
    from actors.model.interop.conversion import Converted


def convert_directory(
    source: Path,
    output: Path,
    *,
    name: str | None = None,
    exits: Sequence[int] | None = None,
    max_prompt_tokens: int | None = None,
    max_new_tokens: int | None = None,
) -> "Converted":
    """Convert a model directory and write the checkpoint; UserError, in one sentence, where that cannot be."""
    quiet()
    from actors.model.checkpoint import save_checkpoint
    from actors.model.interop.conversion import convert
    from actors.model.interop.families import configuration, family_of
    from actors.model.interop.model_directory import QFORMER_TOKENIZER, read_source, side_files
    from actors.model.interop.tokenizer_files import read_tokenizer, read_tokenizer_files

    content = read_source(source)
    family, hf = family_of(content.config), configuration(content.config)
    tokenizer = read_tokenizer(source, family, hf)
    converted = convert(
        content,
        tokenizer,
        name=name or model_name(source),
        exits=exits,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
    )
    dtype = converted.state["decoder.embedding.weight"].dtype
    qformer = (
        read_tokenizer_files(source / QFORMER_TOKENIZER, hf.qformer_config) if converted.config.text.qformer else None
    )
    with writing(output):
        save_checkpoint(output, converted.config, converted.state, tokenizer, dtype, qformer)
        kept = output / SOURCE_FOLDER
        kept.mkdir(exist_ok=True)
        for file in side_files(source):
            (kept / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / file, kept / file)
    return converted


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what keeps a folder from being written into one sentence: OutputFailed."""
    from safetensors import SafetensorError

    from conf.errors import OutputFailed

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputFailed(f"{str(folder)!r} cannot be written: {reason}") from None


def model_name(source: Path) -> str:
    """Return the name of a directory; in a cache of the hub, models--OWNER--NAME/snapshots/COMMIT, the model's."""
    path = source.resolve()
    return path.parent.parent.name.split("--")[-1] if path.parent.name == "snapshots" else path.name


def quiet() -> None:
    """Silence the library's advice, meant for those who call it themselves; what matters here is said in our words."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
