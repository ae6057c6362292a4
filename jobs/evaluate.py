"""`deed evaluate`: score a checkpoint on a source that says what is right: every exit alone, and early exit.

For example: deed evaluate data.parquet --checkpoint runs/converted --target answer --prompt "{question}"
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.shared.row_arguments import add_row_arguments, row_config, say_what_is_left_out
from pipeline.report.safe_text import visible

if TYPE_CHECKING:
    from actors.training.scoring import Scores


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="deed evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_row_arguments(parser, "conf/evaluate.yaml", "JSON file for the numbers")
    options = parser.parse_args(arguments)

    from conf.evaluation import EvaluateConfig

    config = row_config(options, EvaluateConfig)

    from actors.training.evaluation import read_labelled
    from actors.training.scoring import dynamic_exits, static_exit, sweep
    from jobs.shared.converted_checkpoint import with_room_for_outputs
    from pipeline.source.left_out import as_dicts

    labelled = read_labelled(config)
    say_what_is_left_out(labelled.left_out, "not scored")
    checkpoint, rows = labelled.checkpoint, labelled.images.rows
    engine = with_room_for_outputs(config.engine, checkpoint.config, config.checkpoint)
    exits = checkpoint.config.exits
    engines = []
    if config.static_exits:
        engines = [(f"exit {layer} alone", static_exit(engine, layer, exits[-1])) for layer in exits[:-1]]
    engines += dynamic_exits(engine, checkpoint.config, config.thresholds)
    name = checkpoint.config.name
    print(f"{len(labelled.images)} images, {len(rows)} prompts, checkpoint {name} {checkpoint.sha256[:12]}")
    print(HEADER)
    scores = sweep(labelled, engine, engines, print_row)
    for name in config.group_by:
        print_groups(name, scores)
    if config.output:
        document = {
            "schema_version": 2,
            "weights_sha256": checkpoint.sha256,
            "num_images": len(labelled.images),
            "num_prompts": len(rows),
            "left_out": as_dicts(labelled.left_out),
            "source": list(config.source.paths),
            "tasks": [task.model_dump(mode="json") for task in config.all_tasks],
            "thresholds": config.engine.thresholds or checkpoint.config.thresholds,
            "rows": [row.as_dict() for row in scores],
        }
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"numbers: {path}")
    return 0


HEADER = (
    f"{'':<14} {'depth':>6} {'computed':>8} {'name F1':>8} {'CIDEr-D':>8} {'BLEU-4':>7} {'ROUGE-L':>8} {'exact':>7} "
    f"{'answers':>8} {'ANLS':>7} {'VQA':>7} {'= full':>7} {'tokens =':>9}"
)


def print_row(row: "Scores") -> None:
    """Print a row of the table under HEADER; shares in percent, depth in layers."""
    columns = [
        (f"{row.mean_depth:.2f}", 6), (f"{row.computed_depth:.2f}", 8), (_percent(row.caption_f1), 8),
        ("-" if math.isnan(row.caption_cider_d) else f"{row.caption_cider_d:.2f}", 8),
        (_percent(row.caption_bleu_4), 7), (_percent(row.caption_rouge_l), 8), (_percent(row.caption_exact), 7),
        (_percent(row.answer_exact), 8), (_percent(row.answer_anls), 7), (_percent(row.answer_vqa), 7),
        (_percent(row.equal_outputs), 7), (_percent(row.equal_tokens), 9),
    ]  # fmt: skip
    print(f"{row.label:<14} " + " ".join(f"{text:>{width}}" for text, width in columns), flush=True)


def print_groups(name: str, scores: "Sequence[Scores]") -> None:
    """Print, for each value of a field, the share of its answers that are one of their references, engine by engine."""
    widths = [max(7, len(row.label)) for row in scores]
    labels = "  ".join(f"{row.label:>{width}}" for row, width in zip(scores, widths, strict=True))
    print(f"\n{visible(f'answers by {name}', 24):<24} {'count':>6}  {labels}")
    for value, group in scores[0].groups[name].items():
        shares = [_percent(row.groups[name][value].exact) for row in scores]
        shown = "  ".join(f"{share:>{width}}" for share, width in zip(shares, widths, strict=True))
        print(f"{visible(value, 24):<24} {group.count:>6}  {shown}")


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{share:.1%}"
