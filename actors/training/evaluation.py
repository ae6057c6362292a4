"""Run the engine over labelled samples and keep what it said, token by token, with its depth."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from actors.engine.drain import drain
from actors.engine.request import Completion, Request
from actors.engine_factory import make_engine
from actors.generation_texts import prefix_of
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.training.corpus import LabelledCorpus, TrainingSample, pixels_of
from conf.engine import EngineConfig
from conf.evaluation import LabelledConfig
from conf.image_plan import ImagePlan
from pipeline.source.plan import LeftOut
from pipeline.source.words_field import word_lines


@dataclass(frozen=True)
class Item:
    """One thing to ask of one image, and what is right."""

    key: str
    task: str  # "caption", or the task of a question
    hard: bool
    prompt: str
    references: tuple[str, ...]
    object_names: tuple[str, ...]  # kinds in the scene; only captions are scored by them


@dataclass(frozen=True)
class Prediction:
    item: Item
    text: str
    completion: Completion


@dataclass(frozen=True)
class Labelled:
    """A checkpoint, and the labelled samples it is to be scored on; `left_out` are those that cannot be used."""

    config: LabelledConfig
    checkpoint: Checkpoint
    samples: list[TrainingSample]
    left_out: tuple[LeftOut, ...]

    def items(self, samples: Sequence[TrainingSample] | None = None) -> list[Item]:
        """Return the caption and the first questions of every sample (none given: of all)."""
        prompt, most = self.config.caption_prompt, self.config.questions_per_image
        chosen = self.samples if samples is None else samples
        return [item for sample in chosen for item in caption_and_question_items(sample, prompt, most)]


def read_labelled(config: LabelledConfig) -> Labelled:
    """Load what a configuration names; UserError where there is nothing to score."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    checkpoint = load_checkpoint(config.checkpoint)
    corpus = LabelledCorpus(config.shards, config.words_field if checkpoint.codec.rules.words else "")
    samples = first_samples(corpus, config.num_images, checkpoint.config.plan)
    return Labelled(config, checkpoint, samples, tuple(corpus.left_out))


def first_samples(corpus: LabelledCorpus, count: int, plan: ImagePlan) -> list[TrainingSample]:
    """Return the first `count` samples that can be used, each under a key of its own; UserError when there are none."""
    samples: dict[str, TrainingSample] = {}
    for sample in corpus.first(count, plan):
        repeats = itertools.chain([sample.key], (f"{sample.key}~{n}" for n in itertools.count(2)))
        key = next(key for key in repeats if key not in samples)  # shards may count their samples each from 0
        samples[key] = replace(sample, key=key)
    return list(samples.values())


def caption_and_question_items(sample: TrainingSample, prompt: str, questions_per_image: int) -> Iterator[Item]:
    """Yield the caption item of a sample and its first questions, which the corpus has already shuffled."""
    record = sample.record
    references = tuple(caption["text"] for caption in record["captions"])
    names = tuple(sorted({thing["name"] for thing in record.get("objects", ())}))
    if references:
        yield Item(sample.key, "caption", False, prompt, references, names)
    for question in record["qa"][:questions_per_image]:
        answers = tuple(question["answers"])
        yield Item(sample.key, question["task"], question["hard"], question["question"], answers, ())


def predict(
    checkpoint: Checkpoint, engine: EngineConfig, samples: Sequence[TrainingSample], items: Sequence[Item],
    words_field: str,
) -> list[Prediction]:  # fmt: skip
    """Return one prediction per item, in the order of the items; `words_field` says where samples have their words."""
    config = checkpoint.config
    by_key = {sample.key: sample for sample in samples}

    def requests() -> Iterator[Request]:
        pixels: dict[tuple[str, str], np.ndarray] = {}
        for request_id, item in enumerate(items):
            drawn = (item.key, item.prompt if config.plan.draws_prompt else "")
            if drawn not in pixels:
                pixels = {drawn: pixels_of(by_key[item.key], config.plan, item.prompt)}  # items come image by image
            words = word_lines(by_key[item.key].record, words_field) if checkpoint.codec.rules.words else ""
            prompt_ids = checkpoint.codec.encode_prompt(item.prompt + words, config.encoder.max_prompt_tokens)
            prefix_ids = prefix_of(item.prompt, engine.generation, checkpoint.codec)
            yield Request(request_id, pixels[drawn], prompt_ids, prefix_ids=prefix_ids)

    done = drain(make_engine(checkpoint, engine), requests(), ahead=4 * engine.num_slots)
    keep = engine.generation.keep_special_tokens
    texts = (checkpoint.codec.decode(completion.token_ids, keep) for completion in done)
    return [Prediction(*each) for each in zip(items, texts, done, strict=True)]
