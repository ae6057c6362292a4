"""Training samples -> packed batches.

Every image brings one caption and as many question-answer pairs as fit the token budgets, drawn anew each epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from actors.generation_texts import prefix_ids_of
from actors.model.model import PackedBatch
from actors.model.tokenizer import TextCodec, train_tokenizer
from actors.training import packing
from actors.training.corpus import LabelledCorpus, TrainingSample, pixels_of
from actors.training.packing import Sharing
from conf.engine import GenerationConfig
from conf.model import ModelConfig
from conf.training import DataConfig, TokenizerConfig
from pipeline.source.words_field import word_lines


def saved_tokenizer(folder: Path, corpus: LabelledCorpus, config: TokenizerConfig) -> Tokenizer:
    """Return the tokenizer saved in the folder, trained on the texts of the corpus first if there is none yet."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    texts: list[str] = []
    count = 0
    for shard in corpus.shards:
        for sample in corpus.samples(shard):
            texts += [text for pair in sample.record["captions"] for text in (pair["prompt"], pair["text"])]
            texts += [text for pair in sample.record["qa"] for text in (pair["question"], pair["answer"])]
            count += 1
        if count >= config.num_samples:
            break
    if not count:
        raise corpus.nothing()
    tokenizer = train_tokenizer(texts, config.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


@dataclass(frozen=True)
class Pair:
    """What the model is asked of an image and what it should say, as text and as tokens."""

    prompt_text: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    prefix: tuple[int, ...] = ()  # what the output is given to begin with

    @property
    def room(self) -> int:
        """Return the target tokens it takes: its prefix, its text and the end token."""
        return len(self.prefix) + len(self.target) + 1


class Packer:
    """Turns samples into `PackedBatch`es; the pairs an image brings depend only on (seed, epoch, key)."""

    def __init__(self, codec: TextCodec, model: ModelConfig, data: DataConfig, seed: int) -> None:
        self.codec, self.model, self.data, self.seed = codec, model, data, seed
        self._generation = GenerationConfig(decoder_prefix=data.decoder_prefix)
        self.packs_prompts = model.encoder.kind == "scenes"  # other encoders read one prompt per pass

    def choose_pairs(self, sample: TrainingSample, epoch: int) -> list[Pair]:
        """Return the pairs that fit the token budgets, one caption first."""
        rng = np.random.default_rng((self.seed, epoch, *sample.key.encode()))
        words = word_lines(sample.record, self.data.words_field) if self.codec.rules.words else ""
        captions, questions = sample.record["captions"], sample.record["qa"]
        caption = captions[rng.integers(len(captions))] if captions else None
        texts = [(caption["prompt"], caption["text"])] if caption is not None else []
        texts += [(questions[i]["question"], questions[i]["answer"]) for i in rng.permutation(len(questions))]
        pairs: list[Pair] = []
        prompt_room, target_room = self.data.prompt_tokens, self.data.target_tokens
        for prompt_text, target_text in texts:
            prompt = self.codec.encode_prompt(prompt_text + words, self.model.encoder.max_prompt_tokens)
            prefix = prefix_ids_of(prompt_text, self._generation, self.codec)
            target = self.codec.encode(target_text)[: max(0, self.model.decoder.max_positions - 1 - len(prefix))]
            pair = Pair(prompt_text, prompt, target, prefix)
            if len(prompt) <= prompt_room and pair.room <= target_room:
                pairs.append(pair)
                prompt_room -= len(prompt)
                target_room -= pair.room
        return pairs

    def choose(self, samples: Sequence[TrainingSample], epoch: int) -> list[list[Pair]]:
        """Return `choose_pairs` of every sample."""
        return [self.choose_pairs(sample, epoch) for sample in samples]

    def pack(
        self, samples: Sequence[TrainingSample], pairs: Sequence[Sequence[Pair]], device: torch.device
    ) -> PackedBatch:
        """Return the batch of every sample with its pairs."""
        model, end = self.model, self.model.eos_id
        images = [
            [
                packing.Pair(
                    pixels_of(sample, model.plan, pair.prompt_text), pair.prompt, (*pair.target, end), pair.prefix
                )
                for pair in own
            ]
            for sample, own in zip(samples, pairs, strict=True)
        ]
        return packing.pack(model, images, device, Sharing.PROMPTS if self.packs_prompts else Sharing.NONE)


def num_tokens(pairs: Sequence[Sequence[Pair]]) -> int:
    """Count the target tokens of some samples, end tokens included."""
    return sum(len(pair.target) + 1 for own in pairs for pair in own)
