"""The images that training from nothing reads: by the pipeline's reader, decoded as the pipeline does.

A sample that cannot be used is left out, counted by its reason, and costs no other sample. The order of an epoch is a
pure function of (seed, epoch).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.source import DEFAULT_PROMPT
from pipeline.images.decode import ImageProblem, image_to_pixels
from pipeline.source.left_out import in_words
from pipeline.source.plan import LeftOut, Shard, sum_left_out
from pipeline.source.readers import RawSample, ReadFailure, read_patiently
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.source.retrying import USUAL_PATIENCE
from pipeline.source.words_field import word_lines
from pipeline.text import storable_value

_BAD_LABELS = "must hold `captions` (texts, or text and prompt) or `qa` (question and answer)"


@dataclass(frozen=True)
class TrainingSample:
    """One image file and its texts, as stored in a shard; `pixels_HWC` where it has been decoded."""

    key: str
    image: bytes
    record: dict[str, Any]
    pixels_HWC: np.ndarray | None = None


class LabelledCorpus:
    """WebDataset shards of images with a JSON of `captions`, texts or {text, prompt}, and `qa`, {question, answer} or
    {question, answers}, one of them at least; and what of them was left out so far.

    `patterns` are paths or URLs as in `source.paths`; UserError for one that names no shard. `words_field` says where
    the JSON has words of the image, if the model reads them.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns, self.words_field = tuple(patterns), ""
        self.reader = WebDatasetReader(
            self.patterns, ("captions",)
        )  # only JSON has it: texts beside images are not read
        listing = self.reader.shards(())
        self.shards = listing.shards
        self._ignored: dict[str, tuple[LeftOut, ...]] = {"": listing.left_out}  # by shard
        self._lost: dict[tuple[str, str], LeftOut] = {}  # by shard and key: counted once, however often it is read

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """By reason: samples that cannot be used, damaged shards, and members that are no samples."""
        ignored = (part for parts in self._ignored.values() for part in parts)
        return sum_left_out([*self._lost.values(), *ignored])

    def samples(self, shard: Shard) -> list[TrainingSample]:
        """Return the labelled samples of a shard in its order, not yet decoded."""
        contents = self.reader.index(shard)
        self._ignored[shard.name] = contents.left_out
        for problem in contents.problems:
            self._lose(shard, "", problem.error_type, problem.message)
        try:
            raws = read_patiently(self.reader, shard, contents.samples, USUAL_PATIENCE)
            return [sample for raw in raws if (sample := self._labelled(shard, raw)) is not None]
        except ReadFailure as failure:
            raise UserError(f"cannot read {shard.url}: {failure}; the same command goes on from here") from None

    def epoch(self, *, seed: int, epoch: int, shuffle_shards: int) -> Iterator[tuple[Shard, TrainingSample]]:
        """Yield every sample of an epoch once: shards in random order, samples shuffled within groups of shards."""
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self.shards))
        for start in range(0, len(order), shuffle_shards):
            shards = [self.shards[i] for i in order[start : start + shuffle_shards]]
            group = [(shard, sample) for shard in shards for sample in self.samples(shard)]
            for i in rng.permutation(len(group)):
                yield group[i]

    def decoded(self, shard: Shard, sample: TrainingSample, plan: ImagePlan) -> TrainingSample | None:
        """Return the sample with its pixels, as the pipeline makes them, instead of its file; None: it is left out."""
        decoded = image_to_pixels(sample.image, plan=plan)
        if isinstance(decoded, ImageProblem):
            self._lose(shard, sample.key, decoded.error_type, f"{shard.name}/{sample.key}: {decoded.message}")
            return None
        return replace(sample, image=b"", pixels_HWC=decoded.pixels_HWC)

    def first(self, count: int, plan: ImagePlan) -> list[TrainingSample]:
        """Return the first `count` samples whose images can be decoded, as files; UserError when there are none."""
        every = ((shard, sample) for shard in self.shards for sample in self.samples(shard))
        usable = (sample for shard, sample in every if self.decoded(shard, sample, plan) is not None)
        found = list(itertools.islice(usable, count))
        if not found:
            raise self.nothing()
        return found

    def nothing(self) -> UserError:
        """Return what to say where no sample could be used."""
        why = "; ".join(in_words(part) for part in self.left_out)
        return UserError(f"no labelled images in {', '.join(self.patterns)}" + (f": {why}" if why else ""))

    def _lose(self, shard: Shard, key: str, reason: str, message: str) -> None:
        self._lost[shard.name, key] = LeftOut(reason, 1, (message or f"{shard.name}/{key}",))

    def _labelled(self, shard: Shard, raw: RawSample) -> TrainingSample | None:
        key = raw.sample.key
        if raw.image is None:
            self._lose(shard, key, raw.error_type or "no_image", raw.message or "")
            return None
        try:
            record = _full_form(storable_value(raw.fields))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            self._lose(shard, key, "bad_labels", f"{shard.name}/{key}.json {_BAD_LABELS}")
            return None
        if not record["captions"] and not record["qa"]:
            self._lose(shard, key, "no_labels", f"{shard.name}/{key}")
            return None
        try:
            word_lines(record, self.words_field)
        except LookupError as error:
            self._lose(shard, key, "bad_words", f"{shard.name}/{key}.json: {error.args[0]}")
            return None
        return TrainingSample(key, raw.image, record)


def _full_form(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with every caption and question in its full form, and objects that have a name."""
    if "json" in record and not isinstance(record["json"], dict) and len(record) == 1:
        raise TypeError("no JSON object")
    captions = [{"text": c} if isinstance(c, str) else c for c in record.get("captions") or ()]
    questions = [{"answers": [q["answer"]], **q} if "answer" in q else q for q in record.get("qa") or ()]
    questions = [{**q, "answers": [str(a) for a in _as_list(q["answers"])]} for q in questions]
    full = {
        **record,
        "captions": [{"prompt": DEFAULT_PROMPT, **c, "text": str(c["text"])} for c in captions],
        "qa": [
            {
                "task": "question",
                "hard": False,
                **q,
                "answer": str(q.get("answer", q["answers"][0])),
                "question": str(q["question"]),
            }
            for q in questions
        ],
    }
    objects = record.get("objects")
    if objects is not None:
        named = isinstance(objects, list) and all(map(_has_name, objects))
        full["objects"] = objects if named else list(filter(_has_name, objects if isinstance(objects, list) else ()))
    return full


def _as_list(answers: Any) -> list[Any]:
    return [answers] if isinstance(answers, str) else list(answers)


def _has_name(thing: Any) -> bool:
    return isinstance(thing, dict) and isinstance(thing.get("name"), str)


def pixels_of(sample: TrainingSample, plan: ImagePlan, prompt: str = "") -> np.ndarray:
    """Return the pixels of a sample that can be decoded, whether or not it has been; a plan may draw the prompt."""
    if sample.pixels_HWC is not None:
        return sample.pixels_HWC
    decoded = image_to_pixels(sample.image, plan=plan, texts=(prompt,))
    assert not isinstance(decoded, ImageProblem), decoded
    return decoded.pixels_HWC
