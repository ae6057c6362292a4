"""`deed calibrate`: choose the exit thresholds of a checkpoint on validation shards and write them into it.

For every candidate risk the thresholds are read off teacher-forced confidences, then checked by really decoding; the
candidate that has the fewest layers computed and loses no more than the allowed points is kept.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.job_arguments import add_config_arguments


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed calibrate", description=__doc__)
    add_config_arguments(parser, "CalibrateConfig")
    options = parser.parse_args(arguments)

    from conf.evaluation import CalibrateConfig
    from conf.load import load_config
    from conf.training import DataConfig

    config = load_config(options.config, options.set, CalibrateConfig)

    import torch

    from actors.evaluation import caption_and_question_items, first_samples
    from actors.model.checkpoint import load_checkpoint
    from actors.scoring import points_lost, sweep
    from actors.training.calibration import record, thresholds_at_risk
    from actors.training.corpus import LabelledCorpus
    from actors.training.data import Packer
    from conf.model import CONFIG_FILE
    from conf.schema import EngineConfig, GenerationConfig
    from jobs.evaluate import HEADER, line
    from pipeline.left_out import sentence

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    checkpoint = load_checkpoint(config.checkpoint)
    exits = config.exits or checkpoint.config.exits
    columns = tuple(checkpoint.config.exits.index(layer) for layer in exits)
    corpus = LabelledCorpus(config.shards, config.words_field if checkpoint.codec.rules.words else "")
    samples = first_samples(corpus, config.num_images, checkpoint.config.image_size)
    if corpus.left_out:
        print(sentence(corpus.left_out, "not scored"), file=sys.stderr)
    data = DataConfig(train=config.shards, validation=config.shards, words_field=config.words_field)
    packer = Packer(checkpoint.codec, checkpoint.config, data, 0)
    device = torch.device("cpu")
    groups = [samples[i : i + 32] for i in range(0, len(samples), 32)]
    recording = record(checkpoint.model, (packer.pack(group, packer.choose(group, 0), device) for group in groups))
    print(f"{len(recording.confidence_NE)} tokens of {len(samples)} images recorded at exits {list(exits)}")

    candidates = {f"risk {risk:g}": thresholds_at_risk(recording, risk, columns) for risk in config.risks}
    generation = GenerationConfig(max_new_tokens=min(64, checkpoint.config.decoder.max_positions))
    engines = [
        (label, EngineConfig(exits=exits, thresholds=thresholds, num_slots=config.num_slots, generation=generation))
        for label, thresholds in candidates.items()
    ]
    checked = samples[: config.check_images]
    items = [
        item
        for sample in checked
        for item in caption_and_question_items(sample, config.caption_prompt, config.questions_per_image)
    ]
    print(HEADER)
    base, words = engines[0][1], config.words_field
    full, *rows = sweep(checkpoint, checked, items, base, engines, lambda row: print(line(row), flush=True), words)
    kept = [row for row in rows if points_lost(full, row) <= config.max_points_lost]
    if not kept:
        print(f"no candidate keeps within {config.max_points_lost} points of full depth; nothing is written")
        return 1
    best = min(kept, key=lambda row: row.computed_depth)
    chosen = dict(zip(exits[:-1], candidates[best.label], strict=True))
    # Exits that were left out stay closed.
    thresholds = tuple(chosen.get(layer, 1.01) for layer in checkpoint.config.exits[:-1])
    updated = checkpoint.config.model_copy(update={"thresholds": thresholds})
    path = Path(config.checkpoint) / CONFIG_FILE
    path.write_text(json.dumps(updated.model_dump(mode="json"), indent=2) + "\n")
    print(f"{best.label}: mean depth {best.mean_depth:.2f} of {exits[-1]}, {best.computed_depth:.2f} computed")
    print(f"thresholds written to {path}")
    return 0
