"""Train a small Pix2Struct or Donut of `transformers` by its own code and its own processor on pictures that are not
square: stands in for a checkpoint somebody brings.

    python -m tests.actors.interop.trained.pictures data/strips
    python -m tests.actors.interop.trained.train pix2struct data/strips runs/pix2struct
    python -m tests.actors.interop.trained.train donut data/strips runs/donut

Killed, it goes on from the last checkpoint when the same command is run again. The log is FOLDER/log.csv.
"""

import io
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from actors.model.tokenizer import load_tokenizer
from actors.training.corpus import LabelledCorpus
from tests.actors.interop.trained.models import END, MODELS, inputs_of, make_tokenizer, save_directory

BATCH, EPOCHS, EVERY = 32, 6, 250  # EVERY: steps between checkpoints
Example = tuple[dict[str, torch.Tensor], str]  # inputs of one picture, caption


def read_pictures(pattern: str) -> Iterator[tuple[Image.Image, str]]:
    corpus = LabelledCorpus([pattern])
    for shard in corpus.shards:
        for sample in corpus.samples(shard):
            yield Image.open(io.BytesIO(sample.image)).convert("RGB"), sample.record["captions"][0]["text"]


def prepare(pattern: str, processor: Any) -> list[Example]:
    """Every picture through the library's processor, once; half precision to hold them all."""
    examples = []
    for image, caption in read_pictures(pattern):
        inputs = inputs_of(processor, [image])
        examples.append(({name: values[0].half() for name, values in inputs.items()}, caption))
    return examples


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    names = examples[0][0]
    return {name: torch.stack([inputs[name] for inputs, _ in examples]).float() for name in names}


def labels_of(texts: list[str], tokenizer: Tokenizer) -> torch.Tensor:
    """[B, T] token ids with the end token; -100 marks padding."""
    rows = [[*tokenizer.encode(" " + text, add_special_tokens=False).ids, END] for text in texts]
    labels = torch.full((len(rows), max(map(len, rows))), -100)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return labels


def generated(model: Any, inputs: dict[str, torch.Tensor], tokenizer: Tokenizer) -> list[str]:
    with torch.no_grad():
        rows = model.generate(**inputs, max_new_tokens=32, do_sample=False, num_beams=1).tolist()
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def word_f1(said: str, true: str) -> float:
    a, b = Counter(said.split()), Counter(true.split())
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def score(model: Any, examples: list[Example], tokenizer: Tokenizer) -> tuple[float, float]:
    """Exact match and mean F1 of words, of what the model says of pictures it has not seen."""
    model.eval()
    said = []
    for first in range(0, len(examples), 64):
        said += generated(model, collate(examples[first : first + 64]), tokenizer)
    model.train()
    true = [caption for _, caption in examples]
    pairs = list(zip(said, true, strict=True))
    return sum(s == t for s, t in pairs) / len(pairs), sum(word_f1(s, t) for s, t in pairs) / len(pairs)


def save_atomically(value: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def resumed(parts: dict[str, Any], path: Path) -> int:
    """Load the last checkpoint into the parts, where there is one; returns the steps it had done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def main(name: str, data: Path, output: Path) -> None:
    torch.manual_seed(0)
    output.mkdir(parents=True, exist_ok=True)
    recipe, state_path, tokenizer_path = MODELS[name], output / "state.pt", output / "tokenizer.json"
    processor = recipe.processor()
    train, val = (prepare(f"{data}/{split}/*.tar", processor) for split in ("train", "val"))
    if not tokenizer_path.exists():
        make_tokenizer((caption for _, caption in train), recipe.special_tokens).save(str(tokenizer_path))
    tokenizer = load_tokenizer(tokenizer_path)
    model = recipe.build(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} values, {len(train)} pictures", flush=True)
    per_epoch = len(train) // BATCH
    steps = EPOCHS * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=0.08)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    started, losses = time.monotonic(), []
    for step in range(resumed(parts, state_path), steps):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng(epoch).permutation(len(train))
        batch = [train[i] for i in order[place * BATCH : (place + 1) * BATCH]]
        loss = model(**collate(batch), labels=labels_of([caption for _, caption in batch], tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        done = step + 1
        if done % EVERY == 0 or done == steps:
            exact, f1 = score(model, val, tokenizer)
            line = f"{done},{sum(losses) / len(losses):.4f},{exact:.3f},{f1:.3f},{time.monotonic() - started:.0f}"
            with (output / "log.csv").open("a") as log:
                print(line, file=log)
            print(f"step, loss, exact, F1, seconds: {line}", flush=True)
            save_atomically({key: part.state_dict() for key, part in parts.items()} | {"step": done}, state_path)
            losses = []
    save_directory(output, model, processor, tokenizer)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
