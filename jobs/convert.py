"""`deed convert`: a `transformers` model directory -> a multi-exit checkpoint, or with --to-hf the way back.

Full depth keeps the original's weights bit for bit; exits start with identity adapters and are untrained until
`deed train` has trained them. Nothing is downloaded and no code of the source is run.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.shared.conversion import convert_directory, quiet, writing


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


def _to_transformers(source: Path, output: Path) -> int:
    quiet()
    from actors.model.checkpoint import load_checkpoint
    from actors.model.interop.conversion import export
    from actors.training.pretrained.card import write_card
    from actors.training.pretrained.record import TrainingRecord
    from conf.licence import SOURCE_FOLDER

    record = TrainingRecord.read(source)
    checkpoint = load_checkpoint(source, dtype=None)
    with writing(output):
        export(checkpoint.config, checkpoint.model.state_dict(), source / SOURCE_FOLDER, output)
        shutil.copyfile(source / "tokenizer.json", output / "tokenizer.json")
        if record is not None and record.full_depth_moved:  # the source's own card is no longer true
            write_card(output, record, plain=True)
    print(f"plain model for transformers: {output}; exits and adapters are not part of it")
    return 0


def _layers(text: str | None) -> tuple[int, ...] | None:
    from conf.errors import UserError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--exits must be layers separated by commas, got {text!r}") from None
