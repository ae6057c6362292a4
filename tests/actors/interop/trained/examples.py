"""What `train` learns from: pictures as the library's processor made them, once, and texts as tokens."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from actors.training.corpus import LabelledCorpus
from tests.actors.interop.trained.models import END, PAD, inputs_of

IGNORED = -100  # a label without loss


@dataclass(frozen=True)
class Text:
    """What an output begins with, and how it goes on."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Examples:
    """`inputs`: of all pictures, by the processor's names, in half precision; `captions` and `questions` by picture."""

    inputs: dict[str, Tensor]
    captions: list[list[Text]]
    questions: list[list[Text]]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> "Examples":
        inputs = {name: values[:count] for name, values in self.inputs.items()}
        return Examples(inputs, self.captions[:count], self.questions[:count])

    def strings(self) -> Iterator[str]:
        """All prompts, questions, captions and answers."""
        for texts in (*self.captions, *self.questions):
            for text in texts:
                yield from (text.prompt, text.target)

    def batch(self, pictures: Sequence[int]) -> dict[str, Tensor]:
        chosen = torch.as_tensor(np.asarray(pictures))
        return {name: values[chosen].float() for name, values in self.inputs.items()}


def read_examples(pattern: str, processor: Any, cache: Path, *, is_asked: bool) -> Examples:
    """Read all pictures and texts; what the processor made of the pictures is kept in `cache`."""
    corpus = LabelledCorpus([pattern])
    samples = [sample for shard in corpus.shards for sample in corpus.samples(shard)]
    if not cache.exists():
        made = [
            {name: values[0].half() for name, values in inputs_of(processor, [opened(sample.image)]).items()}
            for sample in samples
        ]
        save_atomically({name: torch.stack([inputs[name] for inputs in made]) for name in made[0]}, cache)
    records = [sample.record for sample in samples]
    return Examples(
        torch.load(cache, mmap=True, weights_only=True),
        [[Text(c["prompt"] if is_asked else "", c["text"]) for c in record["captions"]] for record in records],
        [[Text(q["question"], q["answer"]) for q in record["qa"]] for record in records],
    )


def opened(payload: bytes) -> Image.Image:
    return Image.open(io.BytesIO(payload)).convert("RGB")


def save_atomically(value: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


def prefix_ids(prompt: str, start: int, tokenizer: Tokenizer) -> list[int]:
    return [start, *tokenizer.encode(prompt, add_special_tokens=False).ids]


def decoder_inputs(texts: Sequence[Text], start: int, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """`decoder_input_ids` [B, T] from the start token on; `labels` [B, T], the next tokens where they are targets."""
    rows = []
    for text in texts:
        prefix = prefix_ids(text.prompt, start, tokenizer)
        target = [*tokenizer.encode(" " + text.target, add_special_tokens=False).ids, END]
        rows.append((prefix + target[:-1], [IGNORED] * (len(prefix) - 1) + target))
    longest = max(len(ids) for ids, _ in rows)
    given, labels = torch.full((len(rows), longest), PAD), torch.full((len(rows), longest), IGNORED)
    for place, (ids, wanted) in enumerate(rows):
        given[place, : len(ids)], labels[place, : len(ids)] = torch.tensor(ids), torch.tensor(wanted)
    return {"decoder_input_ids": given, "labels": labels}
