"""What is done already: the list of shards an output was begun with, and the driver's book of shards and chunks.

The book is rebuilt from storage at every start and trusts nothing else. It never decides that a shard is done: it
decides when a shard is worth auditing, and the audit decides.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from conf.errors import OtherOutput
from pipeline.output.formats import version_of
from pipeline.output.incarnation import INCARNATION_NAME
from pipeline.output.lease import FORMER_NAME, LEASE_FOLDER
from pipeline.output.publish import ENGINE_STATS, ERRORS, RESULTS, published_name, published_shards
from pipeline.output.staging import STAGING, load_indexes, remove_other_incarnations, remove_staging, staged_shards
from pipeline.output.storage import Storage, is_temporary
from pipeline.source.left_out import in_words
from pipeline.source.plan import Listing, Shard
from pipeline.source.versions import differ, differ_in_content
from pipeline.text import original, storable

STATE, PLAN_NAME, RUN_NAME = "_state", "_state/plan.parquet", "run.json"
SIDECARS = "_state/sidecars"  # pipeline.exports.sidecars
_LOG = logging.getLogger(__name__)
_LONGEST_FILE_NAME = 1 + 255  # with the slash
_PLAN_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("url", pa.string()),
        ("weight", pa.int64()),
        ("unit", pa.string()),
        ("files", pa.int64()),
        ("members", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.int64())),
        ("beside", pa.list_(pa.string())),
        ("records", pa.struct([("begin", pa.int64()), ("size", pa.int64())])),
        ("version", pa.string()),
    ]
)


def clear_output(storage: Storage) -> None:
    """Remove what runs write, and nothing else. Who holds the output, which incarnation it is, and what was written
    into the caption files of the source, stays."""
    for folder in (RESULTS, ERRORS, ENGINE_STATS, STAGING):
        storage.remove_folder(folder)
    own = [f"{STATE}/{name}" for name in storage.walk(STATE)]
    folders = (f"{LEASE_FOLDER}/", f"{SIDECARS}/")
    keep = {FORMER_NAME, INCARNATION_NAME, *(name for name in own if name.startswith(folders))}
    storage.remove(name for name in own if name not in keep)
    storage.remove([RUN_NAME])


def remove_temporaries(
    storage: Storage, folders: Sequence[str] = (RESULTS, ERRORS, ENGINE_STATS, STATE, STAGING)
) -> None:
    """Delete what killed writers left half-written."""
    for folder in folders:
        storage.remove(f"{folder}/{name}" for name in storage.walk(folder) if is_temporary(name))


def known_shards(storage: Storage) -> dict[str, Shard]:
    """name -> shard as it was when it was planned, but for names that a former version gave and no disk can hold."""
    try:
        table = storage.read_table(PLAN_NAME)
    except FileNotFoundError:
        return {}
    version = version_of(table.schema.metadata, f"{storage.url}/{PLAN_NAME}")
    read = Shard.from_fields if version > 1 else Shard.from_former
    rows = table.to_pylist()
    return {
        row["name"]: read(_fields(row))
        for row in rows
        if not storage.is_local or len(published_name("", row["name"])) <= _LONGEST_FILE_NAME
    }


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a shard, from its row of the plan."""
    fields = {name: value for name, value in row.items() if name != "files" and value is not None}
    for name in {"members", "beside"} & fields.keys():
        fields[name] = list(map(original, fields[name]))
    return {**fields, "url": original(row["url"])}


def with_planned(known: Mapping[str, Shard], shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards of the source, and those planned before that it has no longer: what was planned stays planned."""
    names = {shard.name for shard in shards}
    return (*shards, *(shard for name, shard in sorted(known.items()) if name not in names))


def check_plan(known: Mapping[str, Shard], listing: Listing) -> None:
    """Raise OtherOutput if a shard of this output has been replaced by another file of the same name since.

    It has if its size is another, or what storage says of its content (an ETag) under the same URL. Another time alone
    is what a copy has: it is said, and the shard taken for the same. So is a photograph of a folder that was replaced:
    it is one row of many, and the others need not suffer for it.
    """
    shards, copies = listing.shards, list[str]()
    for shard in shards:
        before = known.get(shard.name)
        if before is None:
            continue
        replaced = before.url == shard.url and differ_in_content(before.version, shard.version)
        if before.weight != shard.weight or replaced:
            then, now = (_described(one, with_tag=replaced) for one in (before, shard))
            raise OtherOutput(
                f"shard {shard.name!r} ({shard.url}) has changed since this output was begun ({then} then, {now} now)"
            )
        if before.url == shard.url and differ(before.version, shard.version):
            copies.append(shard.url)
    if copies:
        what = "1 shard was" if len(copies) == 1 else f"{len(copies)} shards were"
        said = "written again since this output was begun, with as many bytes, and taken for the same"
        _LOG.warning("%s %s: %s", what, said, ", ".join(copies[:3]))
    for part in listing.changed:
        said = "answers that are there stay, and what is still to be done reads the files as they are now"
        _LOG.warning("%s, of another size than when they were planned: %s", in_words(part), said)
    sources, names = {shard.url for shard in shards}, {shard.name for shard in shards}
    for before in known.values():
        if before.url in sources and before.name not in names:
            raise OtherOutput(
                f"{before.url} has changed since this output was begun: its shard {before.name!r} is no longer a part "
                "of it"
            )


def _described(shard: Shard, *, with_tag: bool) -> str:
    return f"{shard.weight} {shard.unit.value}" + (
        f" with the tag {shard.version.partition(':')[2]}" if with_tag else ""
    )


def save_plan(storage: Storage, known: Mapping[str, Shard], shards: Iterable[Shard]) -> None:
    together = {**known, **{shard.name: shard for shard in shards}}
    rows = [
        {
            **asdict(shard),
            "url": storable(shard.url),
            "unit": shard.unit.value,
            "files": len(shard.members),
            "members": [storable(member) for member in shard.members],
            "version": "" if shard.file_bytes else shard.version,  # what may grow has another one in the next run
            "beside": [storable(name) for name in shard.beside],
        }
        for _, shard in sorted(together.items())
    ]
    storage.write_table(PLAN_NAME, pa.Table.from_pylist(rows, schema=_PLAN_SCHEMA))


@dataclass(slots=True)
class ShardBook:
    """What is known of one unfinished shard."""

    staged: set[int] = field(default_factory=set)
    num_chunks: int | None = None  # unknown until the shard has been indexed

    @property
    def complete(self) -> bool:
        return self.num_chunks is not None and len(self.staged) >= self.num_chunks


class Ledger:
    """The driver's book: which shards are published, which chunks of the others are staged."""

    def __init__(self, shard_names: Iterable[str], published: Iterable[str] = ()) -> None:
        self.published: set[str] = set()
        self.started: set[str] = set()  # unpublished, with something staged
        self.complete: set[str] = set()  # unpublished, with every chunk staged
        self.open: dict[str, ShardBook] = {name: ShardBook() for name in shard_names}
        for name in published:
            if self.open.pop(name, None) is not None:
                self.published.add(name)

    @classmethod
    def from_storage(cls, storage: Storage, shard_names: Iterable[str]) -> "Ledger":
        """Read the state of an output and remove what killed runs left behind. Needs the lease.

        Shards that are open again (pipeline.output.second_chance) are worked on although they are published.
        """
        remove_temporaries(storage)
        remove_other_incarnations(storage)
        found = staged_shards(storage)
        reopened = {name for name, staged in found.items() if staged.reopened}
        ledger = cls(shard_names, sorted(published_shards(storage) - reopened))
        for name in found.keys() & ledger.published:  # published, then killed before the staging was removed
            remove_staging(storage, name)
        for name in found.keys() & ledger.open.keys():
            ledger.open[name].staged = found[name].chunks
        for name, index in load_indexes(storage, (name for name in ledger.open if name in found)).items():
            ledger.open[name].num_chunks = index.num_chunks
        for shard_name in ledger.open:
            ledger._file(shard_name)
        return ledger

    def record_staged(self, shard_name: str, chunk_index: int, num_chunks: int) -> None:
        """A chunk has been committed; hearing of it twice, or after publication, changes nothing."""
        book = self.open.get(shard_name)
        if book is not None:
            book.num_chunks = num_chunks
            book.staged.add(chunk_index)
            self._file(shard_name)

    def record_published(self, shard_name: str) -> None:
        if self.open.pop(shard_name, None) is not None:
            self.published.add(shard_name)
            self._file(shard_name)

    def record_redo(self, shard_name: str, chunks: Iterable[int]) -> None:
        """The audit has thrown these chunks out; another pass must do them again."""
        book = self.open.get(shard_name)
        if book is not None:
            book.staged.difference_update(chunks)
            self._file(shard_name)

    def _file(self, shard_name: str) -> None:
        """Keep the two sets right, so that nobody has to look through all shards for each chunk."""
        book = self.open.get(shard_name)
        for names, belongs in ((self.started, book and book.staged), (self.complete, book and book.complete)):
            (names.add if belongs else names.discard)(shard_name)

    @property
    def finished(self) -> bool:
        return not self.open
