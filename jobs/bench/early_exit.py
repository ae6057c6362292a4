"""`deed bench exits`: what leaving early is worth, of trained checkpoints, against full depth of the same engine and,
where its directory is named, against the library's own `generate` of the model they come from.

Times are of the decoder alone. Every round measures all in turn; shown are medians over rounds, and of ratios within a
round the smallest and the largest. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from conf.errors import UserError
from jobs.shared.job_arguments import kind_of

if TYPE_CHECKING:
    from actors.model.checkpoint import Checkpoint
    from actors.training.pretrained.held_out import HeldOut

Way = Callable[[], float]  # runs all texts once; seconds of the decoder for each text
FULL, EARLY, LIBRARY = "full depth", "early exit", "library"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench exits", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="images that were not learned from")
    parser.add_argument("--checkpoint", action="append", required=True, metavar="FOLDER", help="may be repeated")
    parser.add_argument("--library", metavar="FOLDER", help="model directory of transformers that they come from")
    parser.add_argument("--prompt", default="describe the image", help="(default: %(default)s)")
    parser.add_argument("--decoder-prefix", default="", help="what outputs begin with, if not what the checkpoint says")
    parser.add_argument("--images", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--slots", default="1,32,128", help="sequences in flight (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args(arguments)

    import torch

    torch.set_num_threads(options.threads)
    rows = []
    for slots in (int(slots) for slots in options.slots.split(",")):
        for folder in options.checkpoint:
            rows.append({"checkpoint": folder, "slots": slots, **_measured(options, folder, slots)})
            print(_line(rows[-1]), flush=True)
    load = os.getloadavg()[0]
    print(json.dumps({"schema_version": 1, "load_average": load, "threads": options.threads, "rows": rows}))
    return 0


def _measured(options: argparse.Namespace, folder: str, slots: int) -> dict[str, Any]:
    """Return milliseconds a text of each way, and how many times as fast as full depth the others are."""
    from actors.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder)
    images = _images(options, checkpoint)
    ways = dict(_ways(options, checkpoint, images, slots))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(options.rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    result: dict[str, Any] = {f"{name} ms": 1000 * statistics.median(seconds[name]) for name in ways}
    for name in (EARLY, LIBRARY):
        if name in ways:
            ratios = [full / other for full, other in zip(seconds[FULL], seconds[name], strict=True)]
            result[f"{name} ratio"] = [min(ratios), statistics.median(ratios), max(ratios)]
    return result


def _images(options: argparse.Namespace, checkpoint: "Checkpoint") -> "HeldOut":
    from actors.training.pretrained.held_out import HeldOut
    from actors.training.rows.row_source import RowSource
    from conf.rows import RowsConfig

    values = {
        "source": {
            "kind": kind_of(options.sources), "paths": options.sources, "prompt": {"template": options.prompt},
        },
        "max_images": options.images,
    }  # fmt: skip
    config = RowsConfig.model_validate(values)
    source = RowSource(config, checkpoint.config.plan)
    images = source.readable(source.places)
    if not images:
        raise source.nothing("images that can be read")
    return HeldOut.of(images, 1, checkpoint.config.plan, config.preprocess)


def _ways(
    options: argparse.Namespace, checkpoint: "Checkpoint", images: "HeldOut", slots: int
) -> Iterator[tuple[str, Way]]:
    from actors.training.rows.targets import Targets
    from conf.engine import EngineConfig, GenerationConfig
    from conf.rows import TargetConfig, TaskConfig
    from conf.source import PromptConfig

    task = TaskConfig(prompt=PromptConfig(template=options.prompt), target=TargetConfig(field="auto"))
    targets = Targets(checkpoint, [task], [None], options.max_new_tokens, options.decoder_prefix)
    few = images.first(min(len(images), 32)) if slots == 1 else images
    generation = GenerationConfig(max_new_tokens=options.max_new_tokens, decoder_prefix=options.decoder_prefix)
    early = EngineConfig(num_slots=slots, generation=generation)
    if checkpoint.config.thresholds is None:
        early = early.at_full_depth()
    for name, config in ((FULL, early.at_full_depth()), (EARLY, early)):
        if name == EARLY and checkpoint.config.thresholds is None:
            continue
        engine = few.engine(checkpoint, targets, config)

        def run(engine: Any = engine) -> float:
            said = few.said(engine, targets, ahead=max(64, 4 * slots))
            return sum(c.device_s - c.encode_s for c in said) / len(said)

        yield name, run
    if options.library is not None:
        given = [checkpoint.config.given_ids(targets.prefix_ids(row)) for row in few.rows]
        yield LIBRARY, _library_way(options, few, given, slots)


def _library_way(options: argparse.Namespace, images: "HeldOut", given: Sequence[Sequence[int]], slots: int) -> Way:
    """Return how long `generate` takes, less its encoder alone, in batches of `slots`."""
    import io

    import torch
    from PIL import Image

    from actors.parity.library import Library

    library = Library(options.library, options.max_new_tokens)
    if len({len(ids) for ids in given}) > 1:
        raise UserError("the library generates in batches only from prompts of one length: ask for one prompt")
    inputs = [library.inputs(Image.open(io.BytesIO(i.image)).convert("RGB"), options.prompt) for i in images.images]
    names = [name for name in inputs[0] if name != "decoder_input_ids"]
    batches = [
        ({name: torch.cat([one[name] for one in inputs[start : start + slots]]) for name in names},
         torch.tensor([list(ids) for ids in given[start : start + slots]]))
        for start in range(0, len(inputs), slots)
    ]  # fmt: skip

    @torch.inference_mode()
    def run() -> float:
        total_s = 0.0
        for batch, ids in batches:
            start_s = time.perf_counter()
            library.model.get_encoder()(**batch)
            encoded_s = time.perf_counter()
            library.model.generate(
                **batch, decoder_input_ids=ids, max_new_tokens=options.max_new_tokens, num_beams=1, do_sample=False
            )
            total_s += time.perf_counter() - encoded_s - (encoded_s - start_s)
        return total_s / len(inputs)

    return run


def _line(row: dict[str, Any]) -> str:
    shown = [f"{row['slots']:>4} slots  {row['checkpoint']:<40}"]
    shown += [f"{name} {row[f'{name} ms']:.2f} ms" for name in (FULL, EARLY, LIBRARY) if f"{name} ms" in row]
    for name in (EARLY, LIBRARY):
        if (ratio := row.get(f"{name} ratio")) is not None:
            shown.append(f"{name} {ratio[1]:.2f} x full depth ({ratio[0]:.2f} to {ratio[2]:.2f})")
    return "  ".join(shown)
