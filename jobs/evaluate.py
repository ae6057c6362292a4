"""`deed evaluate`: score a checkpoint on labelled shards, every exit alone and with early exit."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.shared.job_arguments import add_config_arguments

if TYPE_CHECKING:
    from actors.training.scoring import Scores


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed evaluate", description=__doc__)
    add_config_arguments(parser, "EvaluateConfig")
    options = parser.parse_args(arguments)

    from conf.evaluation import EvaluateConfig
    from conf.load import load_config

    config = load_config(options.config, options.set, EvaluateConfig)

    from actors.training.evaluation import read_labelled
    from actors.training.scoring import dynamic_exits, static_exit, sweep
    from pipeline.source.left_out import as_dicts, sentence

    labelled = read_labelled(config)
    if labelled.left_out:
        print(sentence(labelled.left_out, "not scored"), file=sys.stderr)
    checkpoint, samples, items = labelled.checkpoint, labelled.samples, labelled.items()
    generation, most = config.engine.generation, checkpoint.config.decoder.max_positions
    if "max_new_tokens" not in generation.model_fields_set and generation.max_new_tokens > most:
        generation = generation.model_copy(update={"max_new_tokens": most})
    engine = config.engine.model_copy(update={"generation": generation})
    exits = checkpoint.config.exits
    engines = []
    if config.static_exits:
        engines = [(f"exit {layer} alone", static_exit(engine, layer, exits[-1])) for layer in exits[:-1]]
    engines += dynamic_exits(engine, checkpoint.config, config.thresholds)
    print(f"{len(samples)} images, {len(items)} prompts, checkpoint {checkpoint.config.name} {checkpoint.sha256[:12]}")
    print(HEADER)
    rows = sweep(checkpoint, samples, items, engine, engines, print_row, config.words_field)
    if config.output:
        document = {
            "schema_version": 1,
            "weights_sha256": checkpoint.sha256,
            "num_images": len(samples),
            "num_prompts": len(items),
            "left_out": as_dicts(labelled.left_out),
            "caption_prompt": config.caption_prompt,
            "thresholds": config.engine.thresholds or checkpoint.config.thresholds,
            "rows": [row.as_dict() for row in rows],
        }
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"numbers: {path}")
    return 0


HEADER = (
    f"{'':<14} {'depth':>6} {'computed':>8} {'name F1':>8} {'CIDEr-D':>8} {'BLEU-4':>7} {'ROUGE-L':>8} {'exact':>7} "
    f"{'answers':>8} {'ANLS':>7} {'easy':>7} {'hard':>7} {'= full':>7} {'tokens =':>9}"
)


def print_row(row: "Scores") -> None:
    """Print a row of the table under HEADER; shares in percent, depth in layers."""
    columns = [
        (f"{row.mean_depth:.2f}", 6), (f"{row.computed_depth:.2f}", 8), (_percent(row.caption_f1), 8),
        ("-" if math.isnan(row.caption_cider_d) else f"{row.caption_cider_d:.2f}", 8),
        (_percent(row.caption_bleu_4), 7), (_percent(row.caption_rouge_l), 8), (_percent(row.caption_exact), 7),
        (_percent(row.vqa_accuracy), 8), (_percent(row.vqa_anls), 7), (_percent(row.vqa_easy), 7),
        (_percent(row.vqa_hard), 7), (_percent(row.equal_outputs), 7), (_percent(row.equal_tokens), 9),
    ]  # fmt: skip
    print(f"{row.label:<14} " + " ".join(f"{text:>{width}}" for text, width in columns), flush=True)


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{share:.1%}"
