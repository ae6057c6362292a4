"""A source and what is right for its rows: which images are used, which are held out, and their rows as they are read.

Reading is that of the pipeline: its readers, its prompts, its rule of what is right (pipeline/source/references.py). A
sample that cannot be used is left out, counted by its reason, and costs no other sample.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.training.rows.labels import Labels, source_with_fields
from actors.training.rows.row import DecodedRows, ImageRows, Row, RowId, decode
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.rows import RowsConfig
from pipeline.images.decode import ImageProblem
from pipeline.preflight import check_task_fields
from pipeline.source.left_out import in_words
from pipeline.source.plan import LeftOut, Sample, Shard, given_id, sample_id, sum_left_out
from pipeline.source.prompts import NoPrompts, make_prompts
from pipeline.source.readers import RawSample, Reader, ReadFailure, make_reader, read_patiently
from pipeline.source.shard_index import ShardIndex
from pipeline.text import storable

_GIVE_FIELDS = ("sidecar_files", "metadata_files")  # no rows of their own, but nothing is lost with them
NO_TEXT = "no_text"  # the reason of rows that have no target
Label = Callable[[Row], Row | str]  # fills in `targets`, or says why the row is left out, as a short fixed word


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is: its shard, by number, and its sample."""

    shard: int
    sample: Sample


@dataclass(frozen=True)
class Split:
    """Images to learn from, to choose by and to report on; no image is in two of them."""

    training: tuple[Place, ...]
    validation: tuple[Place, ...]
    test: tuple[Place, ...]


class RowSource:
    """The images of a source that are used, listed once, and how their rows are read.

    UserError where the source is not there or has no images. `left_out` says what could not be used so far.
    """

    def __init__(self, config: RowsConfig, plan: ImagePlan, known: Collection[Shard] = ()) -> None:
        """`known`: the shards of runs whose texts are learned; their names are kept, and others are left out."""
        self.config, self.plan = config, plan
        self.labels = Labels(config)
        self.reader: Reader = make_reader(source_with_fields(config))
        listing = self.reader.shards(known)
        for number, task in enumerate(self.labels.tasks):
            check_task_fields(
                self.reader, config.source, task, "" if number == 0 else f"tasks[{number - 1}].", listing.shards
            )
        self._ignored: list[LeftOut] = [*listing.left_out, *self.labels.left_out]
        self._lost: dict[RowId, LeftOut] = {}  # counted once, however often it is read
        self.shards: list[Shard] = []
        self._spans: list[list[list[int]]] = []  # by shard: chunks that are read together
        named = {shard.name for shard in known}
        places: list[Place] = []
        room = config.max_images
        for shard in self._order(listing.shards, named):
            if room <= 0:
                break
            if named and shard.name not in named:
                room -= self._leave_out(shard)
                continue
            found = self._list(shard)
            places += found
            room -= len(found)
        self.places = tuple(places[: config.max_images])
        if not self.places:
            raise self.nothing("images")

    def _order(self, shards: Sequence[Shard], first: Collection[str]) -> Iterator[Shard]:
        """Yield the shards of these names, then the others: what a source has got since does not change which of the
        former come when."""
        rng = np.random.default_rng(self.config.seed)
        for is_first in (True, False):
            group = [shard for shard in shards if (shard.name in first) == is_first]
            random = self.config.shard_order == "random"
            order = rng.permutation(len(group)).tolist() if random else range(len(group))
            yield from (group[number] for number in order)

    def _leave_out(self, shard: Shard) -> int:
        """Count the images of a shard of which no run has said anything; return how many they are."""
        names = [sample_id(shard.name, sample.key) for sample in self.reader.index(shard).samples]
        if names:
            self._ignored.append(LeftOut.of(NO_TEXT, names))
        return len(names)

    def _list(self, shard: Shard) -> list[Place]:
        contents = self.reader.index(shard)
        self._ignored += contents.left_out
        for number, problem in enumerate(contents.problems):
            self.lose(Row(shard.name, "", "", 0, number, ""), problem.error_type, problem.message)
        index = ShardIndex.of(contents, self.config.source.chunk_rows, shard.version)
        self.shards.append(shard)
        self._spans.append(self.reader.spans(shard, index, range(index.num_chunks)))
        return [Place(len(self.shards) - 1, sample) for sample in contents.samples]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """By reason: rows that cannot be used, damaged shards, and files that are no samples."""
        return sum_left_out([*self._lost.values(), *(p for p in self._ignored if p.reason not in _GIVE_FIELDS)])

    def lose(self, row: Row, reason: str, message: str = "") -> None:
        """Count a row, or an image where it has no prompt, as left out."""
        name = f"{row.shard}/{row.key}" if row.key else row.shard
        self._lost[row.row_id] = LeftOut(reason, 1, (message or name,))

    def nothing(self, what: str) -> UserError:
        """Return what to say where no row could be used."""
        self.labels.raise_if_unknown()
        why = "; ".join(in_words(part) for part in self.left_out)
        return UserError(f"no {what} in {', '.join(self.config.source.paths)}" + (f": {why}" if why else ""))

    def split(self, validation: int, test: int) -> Split:
        """Hold out so many images, each at most a quarter of all.

        Which ones is decided by a hash of where they are and of the seed, so that they are a random sample of the
        source, and the same one as long as it holds the same images.
        """
        most = len(self.places) // 4
        validation, test = min(validation, most), min(test, most)
        order = [id(place) for place in sorted(self.places, key=self._hash)]
        reported, chosen_by = set(order[:test]), set(order[test : test + validation])
        held = reported | chosen_by
        return Split(
            training=tuple(place for place in self.places if id(place) not in held),
            validation=tuple(place for place in self.places if id(place) in chosen_by),
            test=tuple(place for place in self.places if id(place) in reported),
        )

    def sample(self, count: int) -> tuple[Place, ...]:
        """Return so many images, or all, drawn at random and in random order.

        The hash is another one than that of `split`: what training has held out is no more likely to be among them.
        """
        return tuple(sorted(self.places, key=lambda place: self._hash(place, "sample/"))[:count])

    def place_id(self, place: Place) -> str:
        """Return what tells an image from all others of the source."""
        return sample_id(self.shards[place.shard].name, place.sample.key)

    def fingerprint(self) -> str:
        """Return a SHA-256 over all images that are used, in order."""
        digest = hashlib.sha256()
        for place in self.places:
            digest.update(self.place_id(place).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    def _hash(self, place: Place, purpose: str = "") -> bytes:
        name = f"{purpose}{self.config.seed}/{self.place_id(place)}"
        return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()

    def units(self, places: Sequence[Place]) -> list[list[Place]]:
        """Return the places grouped into what is read together: a chunk, or a whole archive that is compressed."""
        unit_of = {
            (shard, chunk): (shard, number)
            for shard, spans in enumerate(self._spans)
            for number, span in enumerate(spans)
            for chunk in span
        }
        units: dict[tuple[int, int], list[Place]] = {}
        for place in places:
            units.setdefault(unit_of[place.shard, place.sample.row // self.config.source.chunk_rows], []).append(place)
        return list(units.values())

    def read(self, places: Sequence[Place], label: Label | None = None) -> Iterator[ImageRows | None]:
        """Yield the rows of each place, None for one that cannot be used; places of a shard come in its order.

        `label`: what fills in the targets. UserError where storage fails, however patiently it is asked.
        """
        for number, group in itertools.groupby(places, key=lambda place: place.shard):
            shard, samples = self.shards[number], [place.sample for place in group]
            try:
                for raw in read_patiently(self.reader, shard, samples, self.config.source.retry):
                    yield self._rows(shard, raw, label)
            except ReadFailure as failure:
                raise UserError(f"cannot read {shard.url}: {failure}; the same command goes on from here") from None

    def _rows(self, shard: Shard, raw: RawSample, label: Label | None) -> ImageRows | None:
        image = Row(shard.name, raw.sample.key, self._identity(shard, raw), 0, 0, "")
        if raw.image is None:
            self.lose(image, raw.error_type or "no_image", raw.message or "")
            return None
        rows: list[Row] = []
        for row in (row for task in range(len(self.labels.tasks)) for row in self._rows_of_task(image, raw, task)):
            labelled = row if label is None else label(row)
            if isinstance(labelled, Row):
                rows.append(labelled)
            else:
                self.lose(row, labelled, f"{row.sample_id}: {row.prompt!r}")
        return ImageRows(raw.image, tuple(rows)) if rows else None

    def _identity(self, shard: Shard, raw: RawSample) -> str:
        column = self.config.source.id_column
        given = raw.fields.get(column) if column is not None else None
        return sample_id(shard.name, raw.sample.key) if given is None else storable(given_id(given, raw.sample))

    def _rows_of_task(self, image: Row, raw: RawSample, task: int) -> Iterator[Row]:
        known = self.labels.in_file(task, raw)
        asked, fields_of_sample = self.labels.asked(task, raw.fields, known)
        try:
            prompts = make_prompts(asked, fields_of_sample)
        except NoPrompts as error:
            self.lose(replace(image, task=task, prompt_index=-1), error.error_type, f"{image.sample_id}: {error}")
            return
        for number, prompt in enumerate(prompts):
            row = replace(image, task=task, prompt_index=number, prompt=storable(prompt.text))
            if prompt.error_type is not None:
                self.lose(row, prompt.error_type, f"{row.sample_id}: {prompt.message}")
                continue
            fields = {**raw.fields, **prompt.own}
            reference = self.labels.reference(task, fields, row.prompt, known)
            if reference is None and self.labels.tasks[task].target.has_labels:
                self.lose(row, "no_label", f"{row.sample_id}: nothing says what is right for {row.prompt!r}")
                continue
            kept = {name: fields[name] for name in self.config.kept_fields if name in fields}
            yield replace(row, reference=reference, fields=kept)

    def decode(self, image: ImageRows) -> DecodedRows | None:
        """Return what the model reads of an image; None: it cannot be decoded and is left out."""
        decoded = decode(image, self.plan, self.config.preprocess)
        if isinstance(decoded, ImageProblem):
            row = image.rows[0]
            self.lose(row, decoded.error_type, f"{row.sample_id}: {decoded.message}")
            return None
        return decoded

    def readable(self, places: Iterable[Place], label: Label | None = None) -> list[ImageRows]:
        """Return the rows of those places whose images can be decoded, as files."""
        images = (image for image in self.read(list(places), label) if image is not None)
        return [image for image in images if self.decode(image) is not None]
