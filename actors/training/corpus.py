"""The images that training, calibration and evaluation read: by the pipeline's reader, decoded as the pipeline does.

A sample that cannot be used is left out, counted by its reason, and costs no other sample. The order of an epoch is a
pure function of (seed, epoch).
"""

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


class ImageCorpus:
    """WebDataset shards with images, and what of them was left out so far.

    `patterns` are paths or URLs as in `source.paths`; UserError for one that names no shard.
    """

    fields: tuple[str, ...] = ()  # that are read beside the image

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self.reader = WebDatasetReader(self.patterns, self.fields)
        listing = self.reader.shards(())
        self.shards = listing.shards
        self._ignored: dict[str, tuple[LeftOut, ...]] = {"": listing.left_out}  # by shard
        self._lost: dict[tuple[str, str], LeftOut] = {}  # by shard and key: counted once, however often it is read

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """By reason: samples that cannot be used, damaged shards, and members that are no samples."""
        ignored = (part for parts in self._ignored.values() for part in parts)
        return sum_left_out([*self._lost.values(), *ignored])

    def raw(self, shard: Shard) -> Iterator[RawSample]:
        """Yield the samples of a shard that have an image, in its order."""
        contents = self.reader.index(shard)
        self._ignored[shard.name] = contents.left_out
        for problem in contents.problems:
            self.lose(shard, "", problem.error_type, problem.message)
        try:
            for raw in read_patiently(self.reader, shard, contents.samples, USUAL_PATIENCE):
                if raw.image is None:
                    self.lose(shard, raw.sample.key, raw.error_type or "no_image", raw.message or "")
                else:
                    yield raw
        except ReadFailure as failure:
            raise UserError(f"cannot read {shard.url}: {failure}; the same command goes on from here") from None

    def lose(self, shard: Shard, key: str, reason: str, message: str) -> None:
        self._lost[shard.name, key] = LeftOut(reason, 1, (message or f"{shard.name}/{key}",))

    def decode(self, shard: Shard, key: str, image: bytes, plan: ImagePlan) -> np.ndarray | None:
        """Pixels [H, W, 3] as the pipeline makes them, or None: the sample is left out."""
        decoded = image_to_pixels(image, plan=plan)
        if isinstance(decoded, ImageProblem):
            self.lose(shard, key, decoded.error_type, f"{shard.name}/{key}: {decoded.message}")
            return None
        return decoded.pixels_HWC

    def nothing(self, what: str) -> UserError:
        """Return what to say where no sample could be used."""
        why = "; ".join(in_words(part) for part in self.left_out)
        return UserError(f"no {what} in {', '.join(self.patterns)}" + (f": {why}" if why else ""))


class LabelledCorpus(ImageCorpus):
    """Images with a JSON of `captions`, texts or {text, prompt}, and `qa`, {question, answer} or {question, answers},
    one of them at least; `words_field` says where the JSON has words of the image, if the model reads them."""

    fields = ("captions",)  # one that only JSON has: texts beside the image are not read

    def __init__(self, patterns: Sequence[str], words_field: str = "") -> None:
        super().__init__(patterns)
        self.words_field = words_field

    def samples(self, shard: Shard) -> list[TrainingSample]:
        """Yield the labelled samples of a shard in its order, not yet decoded."""
        return [sample for sample in (self._labelled(shard, raw) for raw in self.raw(shard)) if sample is not None]

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
        """Return the sample with its pixels instead of its file; None: it is left out."""
        pixels_HWC = self.decode(shard, sample.key, sample.image, plan)
        return None if pixels_HWC is None else replace(sample, image=b"", pixels_HWC=pixels_HWC)

    def first(self, count: int, plan: ImagePlan) -> list[TrainingSample]:
        """Return the first `count` samples whose images can be decoded, as files; UserError when there are none."""
        found: list[TrainingSample] = []
        for shard in self.shards:
            for sample in self.samples(shard):
                if self.decode(shard, sample.key, sample.image, plan) is not None:
                    found.append(sample)
                if len(found) == count:
                    return found
        if not found:
            raise self.nothing("labelled images")
        return found

    def _labelled(self, shard: Shard, raw: RawSample) -> TrainingSample | None:
        key = raw.sample.key
        assert raw.image is not None
        try:
            record = _full_form(storable_value(raw.fields))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            self.lose(shard, key, "bad_labels", f"{shard.name}/{key}.json {_BAD_LABELS}")
            return None
        if not record["captions"] and not record["qa"]:
            self.lose(shard, key, "no_labels", f"{shard.name}/{key}")
            return None
        try:
            word_lines(record, self.words_field)
        except LookupError as error:
            self.lose(shard, key, "bad_words", f"{shard.name}/{key}.json: {error.args[0]}")
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
