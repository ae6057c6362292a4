"""Incremental labelling: each scheduled run is a tick, a run directory of its own that is never changed afterwards.

    ROOT/_state/lease/         one writer
    ROOT/_state/config.json    settings every tick shares
    ROOT/ticks/000001/         what `deed caption` writes, and tick.json: its shards and questions, fixed beforehand

A tick is planned when all before it are complete, and leaves out every (sample, question) that is in their results or
errors; within a tick the data plane does each exactly once. So each is in one tick, once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from conf.errors import SourceAway, UserError
from conf.schema import JobConfig
from conf.source import PromptConfig, RetryConfig, SourceConfig, SourceKind
from conf.templates import field_place
from conf.vqa import VqaConfig
from pipeline.output.ending import FINISHED
from pipeline.output.formats import version_of
from pipeline.output.publish import ERRORS, RESULTS
from pipeline.output.storage import Storage
from pipeline.preflight import check_question_fields
from pipeline.source.left_out import from_dicts
from pipeline.source.passthrough import without_items
from pipeline.source.plan import Asked, Contents, LeftOut, Listing, Sample, Shard, Unit, given_id
from pipeline.source.prompts import USUAL_LIMITS, NoPrompts, PromptLimits
from pipeline.source.questions import Questions
from pipeline.source.readers import RawSample, Reader, ReadFailure, make_reader, read_patiently
from pipeline.source.readers.folders.folder_files import Companions
from pipeline.source.readers.folders.folder_shards import FILES_PER_SHARD
from pipeline.source.readers.unchanged import as_of_now
from pipeline.source.retrying import USUAL_PATIENCE, is_refusal, is_transient
from pipeline.source.shard_index import ShardIndex
from pipeline.source.shard_names import name_shards
from pipeline.text import original, storable

TICKS, TICK_NAME = "ticks", "tick.json"
_ID, _ASK, _PROMPT = (
    "__id",
    "__ask",
    "__prompt",
)  # fields the reader adds to a sample: _ASK holds pipeline.source.prompts


@dataclass(frozen=True)
class TickShard:
    """A shard of a tick. `container`: the lasting name of its file or folder; `earlier`: published files about it."""

    shard: Shard
    container: str
    earlier: tuple[str, ...]


@dataclass(frozen=True)
class Tick:
    number: int
    questions: Questions
    shards: tuple[TickShard, ...]
    left_out: tuple[LeftOut, ...] = ()  # by the listing it was planned from

    @property
    def folder(self) -> str:
        return f"{TICKS}/{self.number:06d}"

    def save(self, root: Storage) -> None:
        """From here on the tick exists, and will be done as it is written here."""
        root.write_json(f"{self.folder}/{TICK_NAME}", asdict(self))

    def is_complete(self, root: Storage) -> bool:
        record = root.read_json(f"{self.folder}/run.json")
        return record is not None and record["status"] in FINISHED


def load_ticks(root: Storage) -> list[Tick]:
    """Return every tick that was planned, oldest first."""
    names = [name for name in root.walk(TICKS) if name.count("/") == 1 and name.endswith(f"/{TICK_NAME}")]
    return [_tick_of(root, f"{TICKS}/{name}") for name in names]


def _tick_of(root: Storage, name: str) -> Tick:
    raw = root.read_json(name)
    read = Shard.from_fields if version_of(raw, name) > 1 else Shard.from_former
    questions = Questions(tuple(raw["questions"]["ask"]), raw["questions"]["field"], raw["questions"]["template"])
    shards = tuple(
        TickShard(read(entry["shard"]), entry["container"], tuple(entry["earlier"])) for entry in raw["shards"]
    )
    return Tick(raw["number"], questions, shards, from_dicts(raw.get("left_out", ())))


def plan_tick(config: VqaConfig, questions: Questions, ticks: Sequence[Tick]) -> Tick | None:
    """Return the next tick: shards, files or questions that are new. None: nothing is."""
    number = ticks[-1].number + 1 if ticks else 1
    known = {entry.shard.url: entry.container for tick in ticks for entry in tick.shards}
    containers = [replace(entry.shard, name=entry.container) for tick in ticks for entry in tick.shards]
    if config.source.kind is SourceKind.IMAGES:  # which of their files are covered is decided below, one by one
        containers = [replace(shard, weight=0, members=()) for shard in containers]
    reader = make_reader(base_source(config, questions))
    listing = reader.shards(containers)
    earlier: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    covered: set[tuple[str, int, str]] = set()  # url, size, and file or "": asked just these questions before
    for tick in ticks:
        for entry in tick.shards:
            shard = entry.shard
            sizes[shard.url] = shard.weight
            earlier.setdefault(shard.url, []).append(f"{tick.folder}/{{}}/{shard.name}.parquet")
            if tick.questions.digest == questions.digest:
                covered |= {(shard.url, 0, m) for m in shard.members} or {(shard.url, shard.weight, "")}
    if config.source.kind is SourceKind.IMAGES:
        due = _due_files(listing.shards, known, covered, number)
    else:
        due = [(shard, shard.name) for shard in listing.shards if (shard.url, shard.weight, "") not in covered]
    if config.source.kind is SourceKind.PARQUET and config.source.id_column is None:
        for shard, _ in due:
            if sizes.get(shard.url, shard.weight) != shard.weight:
                raise UserError(
                    f"{shard.url} has changed since it was labelled and its rows have no names: set source.id_column, "
                    "or give changed files new names"
                )
    if not any(tick.questions.digest == questions.digest for tick in ticks):
        check_question_fields(reader, config.source, questions, [shard for shard, _ in due], first=not ticks)
    entries = tuple(TickShard(shard, name, tuple(earlier.get(shard.url, ()))) for shard, name in due)
    return Tick(number, questions, entries, listing.left_out) if entries else None


def _due_files(
    listed: Sequence[Shard], known: Mapping[str, str], covered: set[tuple[str, int, str]], number: int
) -> list[tuple[Shard, str]]:
    """Folders: only the files not covered, cut anew, so that a new file does not move others to another shard."""
    files: dict[str, list[str]] = {}
    for shard in listed:
        files.setdefault(shard.url, []).extend(m for m in shard.members if (shard.url, 0, m) not in covered)
    names = name_shards(files, dict(known))
    due: list[tuple[Shard, str]] = []
    for url, members in files.items():
        beside = Companions(name for shard in listed if shard.url == url for name in shard.beside)
        for part, first in enumerate(range(0, len(members), FILES_PER_SHARD)):
            group = tuple(members[first : first + FILES_PER_SHARD])
            name = f"{names[url]}-t{number:06d}-{part:05d}"
            due.append((Shard(name, url, len(group), group, beside.of(group), unit=Unit.FILES), names[url]))
    return due


def base_source(config: JobConfig, questions: Questions) -> SourceConfig:
    """Return the source as its own reader sees it: every field that is needed is named."""
    needed = (*config.source.passthrough, *questions.columns)
    return config.source.model_copy(update={"prompt": PromptConfig(), "passthrough": needed})


def tick_config(config: VqaConfig, tick: Tick) -> JobConfig:
    """Return the job of one tick: prompts and identities are those its reader adds to the samples."""
    values = {name: getattr(config, name) for name in JobConfig.model_fields}
    prompt = PromptConfig(template=field_place(_PROMPT), list_field=_ASK)  # part of what tells a tick's settings
    path = f"{config.output.path.rstrip('/')}/{tick.folder}"
    values["source"] = config.source.model_copy(update={"prompt": prompt, "id_column": _ID})
    values["output"] = config.output.model_copy(update={"path": path})
    return JobConfig.model_construct(**values)


@dataclass(frozen=True)
class TickReader:
    """A source's reader with everything left out that earlier ticks have done; a pipeline.source.readers.Reader."""

    base: Reader
    root: Storage
    tick: Tick
    id_column: str | None
    needs_fields: bool
    patience: RetryConfig = USUAL_PATIENCE
    limits: PromptLimits = USUAL_LIMITS

    @classmethod
    def of(cls, config: VqaConfig, root: Storage, tick: Tick, max_prompt_tokens: int = 0) -> "TickReader":
        needs_fields = bool(tick.questions.columns) or config.source.id_column is not None
        reader = make_reader(base_source(config, tick.questions))
        limits = PromptLimits.of(config, max_prompt_tokens)
        return cls(reader, root, tick, config.source.id_column, needs_fields, config.source.retry, limits)

    def _entry(self, shard: Shard) -> TickShard:
        return next(entry for entry in self.tick.shards if entry.shard.name == shard.name)

    def shards(self, known: Iterable[Shard]) -> Listing:
        return Listing(as_of_now([entry.shard for entry in self.tick.shards]), self.tick.left_out)

    def field_types(self, shards: Sequence[Shard]) -> dict[str, pa.DataType]:
        return without_items(self.base.field_types(shards), self.tick.questions.field)

    def spans(self, shard: Shard, index: ShardIndex, todo: Sequence[int]) -> list[list[int]]:
        return self.base.spans(shard, index, todo)

    def with_patience(self, patience: RetryConfig) -> "TickReader":
        return replace(self, base=self.base.with_patience(patience), patience=patience)

    def index(self, shard: Shard) -> Contents:
        contents = self.base.index(shard)
        done, failed = answered(self.root, self._entry(shard).earlier)
        if not done and not failed:
            return contents
        kept: list[Sample] = []
        for sample, identity, prompts in self.asked(shard, contents.samples):
            new = [number for number, prompt in enumerate(prompts) if (identity, prompt) not in done]
            if identity not in failed and (new or not prompts):
                kept.append(with_prompts(sample, len(kept), new))
        return replace(contents, samples=tuple(kept))

    def asked(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[tuple[Sample, str, list[str]]]:
        """Each sample with its identity and the prompts it has, as tables hold them, none where it lacks what they
        need or cannot be read."""
        fields = self._fields(shard, samples) if self.needs_fields else ({} for _ in samples)
        entry = self._entry(shard)
        for sample, own in zip(samples, fields, strict=True):
            try:
                prompts = [storable(prompt.text) for prompt in self.tick.questions.prompts(own, self.limits)]
            except NoPrompts:
                prompts = []
            yield sample, storable(self._identity(entry, sample, own)), prompts

    def _fields(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[Mapping[str, Any]]:
        """Of each sample; nothing of those that will never be read, because the shard is damaged or gone: reading them
        once more makes them errors of this tick. SourceAway where it is only the storage that is away."""
        done = 0
        try:
            for raw in read_patiently(self.base, shard, samples, self.patience):
                done += 1
                yield raw.fields
        except ReadFailure as failure:
            if is_transient(failure.__cause__) or (failure.__cause__ and is_refusal(failure.__cause__)):
                said = f"{shard.url} cannot be read now, and which of its questions are new is written in it: {failure}"
                raise SourceAway(f"{said}; run the same command again when it can be") from failure
            yield from ({} for _ in samples[done:])

    def read(self, shard: Shard, samples: Sequence[Sample]) -> Iterator[RawSample]:
        entry = self._entry(shard)
        for asked, raw in zip(samples, self.base.read(shard, list(map(_original, samples))), strict=True):
            fields = {**raw.fields, _ID: self._identity(entry, asked, raw.fields)}
            sample = Sample(asked.row, asked.key, ())  # its parts have had their say
            if raw.image is None:
                yield replace(raw, sample=sample, fields=fields)
                continue
            try:
                prompts = self.tick.questions.prompts(raw.fields, self.limits)
            except NoPrompts as error:
                yield RawSample(sample, None, fields, error.error_type, f"{fields[_ID]}: {error}")
                continue
            fields[_ASK] = [prompts[number] for number in _chosen(asked, len(prompts))]
            yield RawSample(sample, raw.image, fields)

    def _identity(self, entry: TickShard, sample: Sample, fields: Mapping[str, Any]) -> str:
        given = None if self.id_column is None else fields.get(self.id_column)
        return f"{entry.container}/{original(sample.key)}" if given is None else given_id(given, sample)


def answered(root: Storage, earlier: Sequence[str]) -> tuple[set[tuple[str, str]], set[str]]:
    """(sample, prompt) pairs that have an answer or an error of their own, and samples that failed as a whole."""
    done: set[tuple[str, str]] = set()
    failed: set[str] = set()
    for name in earlier:
        results = root.read_table(name.format(RESULTS)).select(["sample_id", "prompt"]).to_pydict()
        done.update(zip(results["sample_id"], results["prompt"], strict=True))
        for row in root.read_table(name.format(ERRORS)).to_pylist():
            if row["prompt"] is not None:
                done.add((row["sample_id"], row["prompt"]))
            elif row["key"] is not None and row["error_type"] != "no_prompt":
                failed.add(row["sample_id"])
    return done, failed


def with_prompts(sample: Sample, row: int, numbers: Sequence[int]) -> Sample:
    """Return the sample as row `row` of its tick, to be asked only these of its prompts."""
    return replace(sample, row=row, asked=Asked(tuple(numbers), sample.row))


def _chosen(sample: Sample, num_prompts: int) -> Sequence[int]:
    if sample.asked is None or not sample.asked.prompts:
        return range(num_prompts)
    return [number for number in sample.asked.prompts if number < num_prompts]


def _original(sample: Sample) -> Sample:
    """Return the sample as the source's own reader knows it."""
    return sample if sample.asked is None else replace(sample, row=sample.asked.row, asked=None)
