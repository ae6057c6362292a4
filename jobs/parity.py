"""`deed parity`: run a few of your pictures through the library's own processor and `generate`, and through the
pipeline at full depth, and show where the two differ.

Both decode greedily. Exit code 0: every picture that both sides take is answered equally; 7: one is not.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UserError
from jobs.shared.job_arguments import add_set_argument, kind_of
from pipeline.text import finite, json_text

if TYPE_CHECKING:
    from actors.parity.compare import Asked, Comparison
    from conf.parity import ParityConfig
    from conf.source import SourceConfig

EQUAL, DIFFERENT = 0, 7
_PICTURES = 24


def main(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    config = parity_config(options)
    with tempfile.TemporaryDirectory(prefix="deed-parity-") as folder:
        checkpoint = options.checkpoint
        if checkpoint is None:
            from jobs.shared.conversion import convert_directory

            checkpoint = folder
            for difference in convert_directory(Path(options.source), Path(checkpoint)).differences:
                print(f"differs: {difference}")
        comparisons = list(run(config, options.source, checkpoint, options.count))
    print(summary(comparisons))
    if options.json:
        document = {"format_version": 1, "pictures": [comparison.as_dict() for comparison in comparisons]}
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(finite(document), indent=1) + "\n")
        print(f"numbers: {options.json}")
    if not any(comparison.compared for comparison in comparisons):
        raise UserError("no picture could be compared")
    return EQUAL if all(comparison.agrees for comparison in comparisons) else DIFFERENT


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deed parity", description=__doc__)
    parser.add_argument("source", metavar="HF_DIR", help="directory of a transformers model")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="what to read, as for deed caption: a folder, tars")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="its conversion (default: converted for this run)")
    parser.add_argument("--prompt", help="what to ask of every picture; {field} is replaced by a field of the sample")
    parser.add_argument("--count", type=int, default=_PICTURES, help="pictures to compare (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write every comparison as JSON")
    add_set_argument(parser, ", e.g. engine.generation.max_new_tokens=128")
    return parser


def parity_config(options: argparse.Namespace) -> "ParityConfig":
    """The configuration that the parsed arguments ask for."""
    from conf.load import load_config
    from conf.parity import ParityConfig

    if options.count < 1:
        raise UserError(f"--count must be at least 1, got {options.count}")
    given = {"source.kind": kind_of(options.images), "source.paths": options.images}
    if options.prompt is not None:
        given["source.prompt.template"] = options.prompt
    return load_config(
        None, [*(f"{key}={json_text(value)}" for key, value in given.items()), *options.set], ParityConfig
    )


def run(config: "ParityConfig", source: str, checkpoint: str, count: int) -> "Iterator[Comparison]":
    """Compare the first `count` pictures and print each; UserError where there is none, or a model cannot be loaded."""
    from conf.checkpoint_files import read_model_config
    from jobs.shared.converted_checkpoint import asked_a_caption, with_room_for_outputs

    model = read_model_config(checkpoint)
    prompt = asked_a_caption(config.source.prompt, model)
    work = list(pictures(config.source.model_copy(update={"prompt": prompt}), count))
    if not work:
        raise UserError(f"no picture was found in {', '.join(config.source.paths)}")

    from actors.parity.compare import compare
    from actors.parity.library import Library
    from actors.parity.ours import Ours
    from jobs.shared.conversion import quiet

    quiet()
    engine = with_room_for_outputs(config.engine, model, checkpoint)
    generation, font = engine.generation, config.preprocess.header_font
    library = Library(
        source, generation.max_new_tokens, decoder_prefix=generation.decoder_prefix,
        own_prefix=model.text.decoder_prefix, font_file=font,
    )  # fmt: skip
    ours = Ours.load(checkpoint, engine, config.preprocess)
    print(f"{len(work)} pictures; the library (there) reads them with {library.reads_image}")
    print(HEADER)
    for comparison in compare(library, ours, work):
        print("\n".join(lines(comparison)), flush=True)
        yield comparison


def pictures(source: "SourceConfig", count: int) -> "Iterator[Asked]":
    """Yield the first `count` pictures of the source, each with its first prompt, and what is wrong with shards."""
    from actors.parity.compare import Asked
    from pipeline.source.prompts import NoPrompts, make_prompts
    from pipeline.source.readers import ReadFailure, make_reader, read_patiently

    reader, found = make_reader(source), 0
    for shard in reader.shards(()).shards:
        contents = reader.index(shard)
        yield from (Asked(shard.name, b"", "", problem.message) for problem in contents.problems)
        samples = contents.samples[: count - found]
        found += len(samples)
        try:
            for raw in read_patiently(reader, shard, samples, source.retry):
                try:
                    prompt = make_prompts(source.prompt, raw.fields)[0]
                except NoPrompts as error:
                    yield Asked(raw.sample.key, b"", "", str(error))
                    continue
                problem = raw.message if raw.image is None else prompt.message or None
                yield Asked(raw.sample.key, raw.image or b"", prompt.text, problem)
        except ReadFailure as failure:
            raise UserError(f"{shard.url!r} cannot be read: {failure}") from None
        if found == count:
            return


HEADER = f"{'picture':<32} {'':<16} {'pixels':>7}  says"


def lines(comparison: "Comparison") -> list[str]:
    """Lines of the table for one picture: one where all is equal; both texts, and where they part, where not."""
    from actors.parity.compare import Verdict
    from pipeline.report.safe_text import visible, visible_piece

    pixels = "-" if comparison.pixel_difference is None else f"{comparison.pixel_difference:.2g}"
    start = f"{visible(comparison.name, 32):<32} {comparison.verdict.value:<16} {pixels:>7}  "
    notes = [f"    {visible(note)}" for note in comparison.notes]
    if comparison.verdict is Verdict.NOT_COMPARED:
        return [start.rstrip(), *notes]
    if (first := comparison.first) is None:
        return [f"{start}'{visible(comparison.ours)}'", *notes]
    return [
        f"{start}token {first.position}: '{visible_piece(first.theirs)}' there, '{visible_piece(first.ours)}' here, "
        f"margin {first.margin:.3g}",
        f"    there '{visible(comparison.theirs)}'",
        f"    here  '{visible(comparison.ours)}'",
        *notes,
    ]


def summary(comparisons: "Sequence[Comparison]") -> str:
    """Say in one sentence how many are equal, and what the others are."""
    from actors.parity.compare import Verdict

    counts = {verdict: sum(comparison.verdict is verdict for comparison in comparisons) for verdict in Verdict}
    parts = [f"{counts[Verdict.EQUAL]} of {len(comparisons)} equal"]
    if number := counts[Verdict.OPENED_OTHERWISE]:
        parts.append(f"{number} equal once the library is given the picture as it is opened here")
    parts += [f"{counts[verdict]} {verdict.value}" for verdict in (Verdict.DIFFERENT, Verdict.NOT_COMPARED)
              if counts[verdict]]  # fmt: skip
    return ", ".join(parts)
