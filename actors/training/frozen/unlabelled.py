"""Images without labels -> what the model itself says of them at full depth, the target of frozen training."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.engine.drain import drain
from actors.engine.engine import Engine
from actors.engine.request import Completion, Request
from actors.model.checkpoint import Checkpoint
from actors.model.image_batch import image_batch
from actors.model.model import PackedBatch
from actors.training.corpus import ImageCorpus
from conf.engine import EngineConfig, GenerationConfig
from conf.image_plan import ImagePlan
from pipeline.images.decode import Pixels, image_to_pixels

Targets = list[tuple[int, ...]]


@dataclass(frozen=True)
class Example:
    """One image, the prompt it gets, and what its output is given to begin with."""

    image: bytes
    prompt: str
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Images with what full depth says of them, end tokens included."""

    examples: Sequence[Example]
    targets: Targets

    def pack(self, checkpoint: Checkpoint, indices: Sequence[int], device: torch.device) -> PackedBatch:
        """The batch of some of the images."""
        return pack(checkpoint, [self.examples[i] for i in indices], [self.targets[i] for i in indices], device)

    def batches(self, checkpoint: Checkpoint, size: int, device: torch.device) -> Iterator[PackedBatch]:
        """Yield all images in order, `size` at a time."""
        for start in range(0, len(self.examples), size):
            yield self.pack(checkpoint, range(start, min(start + size, len(self.examples))), device)

    def num_tokens(self, indices: Sequence[int]) -> int:
        return sum(len(self.targets[i]) for i in indices)


def read_examples(
    corpus: ImageCorpus, prompts: Sequence[str], count: int, plan: ImagePlan,
    prefix_of: Callable[[str], tuple[int, ...]] = lambda prompt: (),
) -> list[Example]:  # fmt: skip
    """Return the first `count` images that can be read; UserError when there are none."""
    asked = [(prompt, prefix_of(prompt)) for prompt in prompts]
    examples: list[Example] = []
    for shard in corpus.shards:
        for raw in corpus.raw(shard):
            assert raw.image is not None
            if corpus.decode(shard, raw.sample.key, raw.image, plan) is not None:
                examples.append(Example(raw.image, *asked[len(examples) % len(asked)]))
            if len(examples) == count:
                return examples
    if not examples:
        raise corpus.nothing("readable images")
    return examples


def digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of images, prompts and prefixes in their order."""
    whole = hashlib.sha256()
    for example in examples:
        prefix = (repr(example.prefix_ids).encode(),) if example.prefix_ids else ()
        for part in (example.image, example.prompt.encode(), *prefix):
            whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def pixels_of(example: Example, plan: ImagePlan) -> np.ndarray:
    """Return an image's pixels as the pipeline makes them."""
    decoded = image_to_pixels(example.image, plan=plan, texts=(example.prompt,))
    assert isinstance(decoded, Pixels)
    return decoded.pixels_HWC


def engine_config(num_slots: int, max_new_tokens: int, **values: object) -> EngineConfig:
    generation = GenerationConfig(max_new_tokens=max_new_tokens)
    return EngineConfig.model_validate({"num_slots": num_slots, "generation": generation, **values})


def decode(checkpoint: Checkpoint, examples: Sequence[Example], config: EngineConfig) -> list[Completion]:
    """Return what the engine says of every example, in order."""
    room = {"max_prefix_tokens": max((len(example.prefix_ids) for example in examples), default=0)}
    config = config.model_copy(update={"generation": config.generation.model_copy(update=room)})
    plan, encode = checkpoint.config.plan, checkpoint.codec.encode_prompt
    requests = (
        Request(i, pixels_of(example, plan), encode(example.prompt), prefix_ids=example.prefix_ids)
        for i, example in enumerate(examples)
    )
    return drain(Engine(checkpoint.model, config), requests, ahead=2 * config.num_slots)


def own_targets(checkpoint: Checkpoint, examples: Sequence[Example], num_slots: int, max_new_tokens: int) -> Targets:
    """Return the full-depth outputs, end tokens included where the model ended by itself."""
    config = engine_config(num_slots, max_new_tokens).at_full_depth()
    return [completion.said_ids for completion in decode(checkpoint, examples, config)]


def pack(checkpoint: Checkpoint, examples: Sequence[Example], targets: Targets, device: torch.device) -> PackedBatch:
    """One prompt and one target per row; label -100 marks padding and what the decoder is given."""
    config = checkpoint.config
    prompts = [checkpoint.codec.encode_prompt(example.prompt) for example in examples]
    prompt_ids, prompt_segments = _padded(prompts, config.pad_id), _padded([(1,) * len(p) for p in prompts], -1)
    given = [config.given_ids(example.prefix_ids) for example in examples]
    inputs = _padded([(*g, *target[:-1]) for g, target in zip(given, targets, strict=True)], config.pad_id)
    rows = [(*(-100,) * (len(g) - 1), *target) for g, target in zip(given, targets, strict=True)]
    labels, segments = _padded(rows, -100), _padded([(1,) * len(row) for row in rows], -1)
    positions = np.arange(labels.shape[1])[None].repeat(len(targets), 0)
    prompt_positions = np.arange(prompt_ids.shape[1])[None].repeat(len(prompts), 0)
    images = image_batch([pixels_of(example, config.plan) for example in examples], device)
    arrays = (prompt_ids, prompt_positions, prompt_segments, inputs, labels, positions, segments)
    return PackedBatch(images, *(torch.from_numpy(array).to(device) for array in arrays))


def _padded(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    array = np.full((len(rows), max(1, *map(len, rows)) if rows else 1), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
