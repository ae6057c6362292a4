"""`deed convert`: a `transformers` model directory -> a multi-exit checkpoint, or with --to-hf the way back.

Full depth keeps the original's weights bit for bit; exits start with identity adapters and are untrained until
`deed train` with mode=frozen has trained them. Nothing is downloaded and no code of the source is run.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.model.interop.conversion import Converted


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed convert", description=__doc__)
    parser.add_argument("source", help="directory with config.json and weights; with --to-hf a checkpoint")
    parser.add_argument("output", help="directory to write; it must not hold a model yet")
    parser.add_argument("--to-hf", action="store_true", help="write the plain model of a checkpoint for transformers")
    parser.add_argument("--exits", help="layers that may emit a token, e.g. 3,6,9,12 (default: quarters of the depth)")
    parser.add_argument("--max-prompt-tokens", type=int, default=None, help="longest prompt the encoder takes")
    parser.add_argument("--max-new-tokens", type=int, default=None, help="longest output of a model without positions")
    parser.add_argument("--name", help="name of the checkpoint (default: the source directory's)")
    options = parser.parse_args(arguments)

    from conf.errors import UserError

    source, output = Path(options.source), Path(options.output)
    if (output / "config.json").exists():
        raise UserError(f"output {str(output)!r} holds a model already")
    if options.to_hf:
        return _to_transformers(source, output)
    converted = convert_directory(
        source,
        output,
        name=options.name,
        exits=_layers(options.exits),
        max_prompt_tokens=options.max_prompt_tokens,
        max_new_tokens=options.max_new_tokens,
    )
    from jobs.shared.convert_summary import describe

    print("\n".join(describe(converted, output)))
    return 0


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
    from actors.model.interop.model_directory import QFORMER_TOKENIZER, SIDE_FILES, read_source
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
        (output / "source").mkdir(exist_ok=True)
        for file in SIDE_FILES:
            if (source / file).is_file():
                (output / "source" / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / file, output / "source" / file)
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


def _to_transformers(source: Path, output: Path) -> int:
    quiet()
    from actors.model.checkpoint import load_checkpoint
    from actors.model.interop.conversion import export

    checkpoint = load_checkpoint(source, dtype=None)
    with writing(output):
        export(checkpoint.config, checkpoint.model.state_dict(), source / "source", output)
        shutil.copyfile(source / "tokenizer.json", output / "tokenizer.json")
    print(f"plain model for transformers: {output}; exits and adapters are not part of it")
    return 0


def model_name(source: Path) -> str:
    """Return the name of a directory; in a cache of the hub, models--OWNER--NAME/snapshots/COMMIT, the model's."""
    path = source.resolve()
    return path.parent.parent.name.split("--")[-1] if path.parent.name == "snapshots" else path.name


def quiet() -> None:
    """Silence the library's advice, meant for those who call it themselves; what matters here is said in our words."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _layers(text: str | None) -> tuple[int, ...] | None:
    from conf.errors import UserError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--exits must be layers separated by commas, got {text!r}") from None
