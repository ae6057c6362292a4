"""A small Pix2Struct of `transformers`, trained by its own code on captions of the scenes corpus: stands in for a
checkpoint somebody brings.

    python -m tests.actors.interop.trained runs/pix2struct 3000        (directory, steps; resumes nothing)
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from actors.model.pretrained.pix2struct import Pix2StructEncoder
from actors.model.tokenizer import train_tokenizer
from actors.training.corpus import LabelledCorpus, TrainingSample, pixels_of

IMAGE, PATCH, PROMPT, BATCH = 64, 8, "describe the image briefly", 24
WIDTH, LAYERS = 96, 6


def build(vocab_size: int) -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text = {
        "vocab_size": vocab_size, "hidden_size": WIDTH, "d_kv": 24, "d_ff": 192, "num_layers": LAYERS, "num_heads": 4,
        "pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2, "dropout_rate": 0.0,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "patch_embed_hidden_size": PATCH * PATCH * 3, "d_ff": 192, "d_kv": 24,
        "num_hidden_layers": 3, "num_attention_heads": 4, "seq_len": 64, "dropout_rate": 0.0,
    }  # fmt: skip
    config = Pix2StructConfig(text_config=text, vision_config=vision)
    config.pad_token_id, config.decoder_start_token_id, config.eos_token_id = 0, 1, 2
    return Pix2StructForConditionalGeneration(config)


def caption(sample: TrainingSample) -> str:
    return next(c["text"] for c in sample.record["captions"] if c["prompt"] == PROMPT)


def batches(corpus: LabelledCorpus, tokenizer: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (patches, labels); -100 marks padding."""
    grid = SimpleNamespace(side=IMAGE // PATCH, patch=PATCH)
    epoch = 0
    while True:
        group: list[TrainingSample] = []
        for _, sample in corpus.epoch(seed=0, epoch=epoch, shuffle_shards=4):
            group.append(sample)
            if len(group) == BATCH:
                pixels = torch.from_numpy(np.stack([pixels_of(s, IMAGE) for s in group]))
                rows = [[*tokenizer.encode(" " + caption(s)).ids, 2] for s in group]
                labels = torch.full((BATCH, max(map(len, rows))), -100)
                for row, ids in zip(labels, rows, strict=True):
                    row[: len(ids)] = torch.tensor(ids)
                yield Pix2StructEncoder.flattened_patches(grid, pixels), labels  # type: ignore[arg-type]
                group = []
        epoch += 1


def main(output: Path, steps: int) -> None:
    torch.manual_seed(0)
    corpus = LabelledCorpus(["data/scenes/train/*.tar"])
    tokenizer = train_tokenizer((caption(s) for shard in corpus.shards[:3] for s in corpus.samples(shard)), 512)
    model = build(tokenizer.get_vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.05)
    for step, (patches, labels) in enumerate(batches(corpus, tokenizer), start=1):
        loss = model(flattened_patches=patches, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(step, round(loss.item(), 3), flush=True)
        if step == steps:
            break
    model.save_pretrained(output)
    tokenizer.save(str(output / "tokenizer.json"))
    processor = {"size": {"height": IMAGE, "width": IMAGE}, "max_patches": (IMAGE // PATCH) ** 2}
    (output / "preprocessor_config.json").write_text(json.dumps(processor))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
