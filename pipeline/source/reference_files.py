"""References in files of their own, as data sets publish them, found by the name of an image or its id.

    COCO, nocaps captions     {"images": [{id, file_name}], "annotations": [{image_id, caption}]}
    Karpathy's splits         {"images": [{filename, cocoid, sentences: [{raw}]}]}
    VQA v2, OK-VQA            {"questions": [{question_id, image_id, question}]} and, in another file,
                              {"annotations": [{question_id, image_id, answers: [{answer}]}]}
    DocVQA, InfographicVQA, TextVQA, TextCaps    {"data": [{image or image_local_name or image_id, question, answers}]}
    VizWiz, ChartQA, A-OKVQA, Visual Genome      [{image or imgname or image_id, question or query, answers or label}]
    GQA                       {question id: {imageId, question, answer}}
    easy-VQA                  [[question, answer, image id]]
    tables                    CSV, TSV, JSON lines, Parquet: a row with the name of an image, and fields as samples have

What a record says is told by pipeline.source.references; files may be compressed.
"""

import itertools
import json
import posixpath
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from conf.errors import UserError
from conf.table import TableConfig
from pipeline.source.file_systems import resolve
from pipeline.source.plan import LeftOut
from pipeline.source.readers.compression import decompressed
from pipeline.source.readers.fetching.files import open_file
from pipeline.source.readers.tables.records import BadRecord, places, read_records
from pipeline.source.references import AskedReference, Kind, Reference, references_in
from pipeline.text import storable

_NAMES = (
    "file_name", "filename", "image_file_name", "image_filename", "image_local_name", "image_name", "imgname", "image",
    "image_path", "img_path", "path", "uri", "url",
)  # fmt: skip
_IDS = ("image_id", "imageId", "img_id", "cocoid", "imgid")
identity_fields = (*_NAMES, *_IDS, "id")  # that `image_names` may read
_TABLES = re.compile(r"\.(csv|tsv|txt|jsonl|ndjson|parquet)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
_COCO_ID = re.compile(r"(?:^|_)(\d{12})$")  # COCO_val2014_000000391895, and 000000391895 since 2017
_MOST_PARTS = 4  # of a path that an image is known by
_MOST_SHOWN = 3
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class ReferenceFile:
    """What a file, or a pair of them, says about images."""

    urls: tuple[str, ...]
    references: Mapping[str, Sequence[AskedReference]]  # of each image: by its name there, or its id
    left_out: tuple[LeftOut, ...]  # records that say nothing, by reason
    _by_name: Mapping[str, str | None]  # every end of a path, with its suffix and without; None: of several images
    _by_id: Mapping[int, str]

    def find(self, names: Iterable[str | int]) -> Sequence[AskedReference]:
        """Return what is known of an image with these names or ids: of the first that is known; else nothing.

        A name counts with or without its suffix and the folders before it, as long as that leaves one image, and by the
        twelve-digit id that COCO puts into it. A number is an id.
        """
        keys = map(self._key_of, names)
        return next((self.references[key] for key in keys if key is not None), ())

    def match(self, images: Iterable[tuple[Key, Iterable[str | int]]]) -> dict[Key, Sequence[AskedReference]]:
        """Return what is known, for images given as (anything, names); UserError if none of them is known."""
        found: dict[Key, Sequence[AskedReference]] = {}
        unknown: list[str] = []
        for key, names in images:
            tried = list(names)
            known = self.find(tried)
            if known:
                found[key] = known
            elif len(unknown) < _MOST_SHOWN:
                unknown += map(str, tried[:1])
        if not found:
            raise self.none_found(unknown)
        return found

    def none_found(self, examples: Sequence[str]) -> UserError:
        """Return the sentence for a source of which no image is known; `examples`: names of some."""
        theirs = ", ".join(list(self.references)[:_MOST_SHOWN])
        ours = ", ".join(examples[:_MOST_SHOWN]) or "not named"
        return UserError(
            f"{_shown(self.urls)} knows no image of the source: its images are {theirs}, the source's {ours}"
        )

    def _key_of(self, name: str | int) -> str | None:
        if isinstance(name, int):
            return self._by_id.get(name) or self._by_name.get(str(name))
        for end in _ends(name):
            if end in self._by_name:
                return self._by_name[end]
        found = _COCO_ID.search(_SUFFIX.sub("", _plain_path(name)))
        return self._by_id.get(int(found.group(1))) if found else None


def image_names(fields: Mapping[str, Any]) -> list[str | int]:
    """Return what a sample's fields say of its image's name and id, for `ReferenceFile.find`."""
    return [one for one in _identity(fields) if one is not None]


def read_references(urls: Sequence[str], field: str | None = None) -> ReferenceFile:
    """Read a file, or one with questions and one with their answers, from any storage. `field`: as for `reference_of`.

    UserError, one sentence, for a file that cannot be read, is of another shape than those above, or says nothing.
    """
    lost: dict[str, list[str]] = {}
    known: dict[tuple[str | None, str | int | None], dict[tuple[Kind, str | None], list[Reference]]] = {}
    for record in _joined([_open(url) for url in urls]):
        own = [] if isinstance(record, BadRecord) else references_in(record, field)
        why = _why_lost(record, own)
        if why is not None:
            lost.setdefault(why, []).append(_name_of(record))
            continue
        of_image = known.setdefault(_identity(record), {})
        for asked, reference in own:
            given = of_image.setdefault((reference.kind, asked), [])
            if len(reference.texts) == 1 or reference not in given:  # TextCaps has its list beside each of its texts
                given.append(reference)
    if not known:
        raise UserError(_why_nothing(urls, lost))
    left_out = tuple(LeftOut.of(reason, examples) for reason, examples in lost.items())
    return _indexed(tuple(urls), known, left_out)


def _indexed(
    urls: tuple[str, ...],
    known: Mapping[tuple[str | None, str | int | None], Mapping[tuple[Kind, str | None], Sequence[Reference]]],
    left_out: tuple[LeftOut, ...],
) -> ReferenceFile:
    references: dict[str, list[AskedReference]] = {}
    by_name: dict[str, str | None] = {}
    by_id: dict[int, str] = {}
    for (name, image_id), of_image in known.items():
        key = str(image_id) if name is None else name
        for end in _ends(key):
            by_name[end] = key if by_name.get(end, key) == key else None
        if isinstance(image_id, int):
            by_id.setdefault(image_id, key)
        for (_, asked), given in of_image.items():
            texts = itertools.chain.from_iterable(reference.texts for reference in given)
            references.setdefault(key, []).append((asked, replace(given[0], texts=tuple(texts))))
    return ReferenceFile(urls, references, left_out, by_name, by_id)


Document = Mapping[str, Any] | Sequence[Any]  # what JSON holds, or the records of a table


def _open(url: str) -> Document:
    try:
        if _TABLES.search(url):
            table = TableConfig(format="csv") if ".txt" in url.lower() else TableConfig()
            return list(read_records(url, list(places(url, table=table)), table=table))
        fs, path = resolve(url)
        with open_file(fs, path) as raw:
            data = decompressed(raw)[0].read()
        try:
            document = json.loads(data, object_hook=_without_annotators)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            document = [json.loads(line, object_hook=_without_annotators) for line in data.splitlines() if line.strip()]
    except UserError:
        raise
    except Exception as error:  # each storage back end and each compression has its own
        raise UserError(f"cannot read the references of {url!r}: {type(error).__name__}: {error}") from None
    if isinstance(document, list | dict) and document:
        return document
    raise UserError(f"{url!r} holds no references: it is {'empty' if not document else 'neither a list nor an object'}")


def _without_annotators(value: dict[str, Any]) -> Any:
    """Return the text alone of one of the answers to a question: a million objects take a gigabyte."""
    is_one = "answer_confidence" in value and isinstance(value.get("answer"), str)
    return sys.intern(value["answer"]) if is_one else value


def _joined(documents: Sequence[Document]) -> Iterator[Any]:
    """Yield the records of all, annotations with what is known of their questions and images."""
    questions: dict[Any, Mapping[str, Any]] = {}
    records: list[Any] = []
    for document in documents:
        if not isinstance(document, Mapping):
            records += document
        elif "questions" in document:
            questions |= {
                one.get("question_id", (len(questions), n)): one
                for n, one in enumerate(_objects(document["questions"]))
            }
        elif "annotations" in document:
            images = {one.get("id"): one.get("file_name") for one in _objects(document.get("images"))}
            for one in _objects(document["annotations"]):
                name = images.get(one.get("image_id"))
                records.append(one if name is None else {**one, "file_name": name})
        else:
            inner = next((document[name] for name in ("data", "images") if name in document), None)
            records += _objects(list(document.values()) if inner is None else inner)
    for record in records:
        if isinstance(record, list) and len(record) == 3:
            yield dict(zip(("question", "answer", "image_id"), record, strict=True))
        elif isinstance(record, Mapping):
            yield {**questions.pop(record.get("question_id"), {}), **record}
        else:
            yield record if isinstance(record, BadRecord) else BadRecord(repr(record)[:40])
    yield from questions.values()  # which nobody has answered, or which have their answers


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _why_lost(record: Any, own: Sequence[AskedReference]) -> str | None:
    if isinstance(record, BadRecord):
        return "bad_records"
    if _identity(record) == (None, None):
        return "unnamed_images"
    if not own:
        return "empty_records"
    if "question_id" in record and any(asked is None and known.kind is Kind.ANSWER for asked, known in own):
        return "questionless_answers"
    return None


def _why_nothing(urls: Sequence[str], lost: Mapping[str, Sequence[str]]) -> str:
    said = _shown(urls)
    if "questionless_answers" in lost:
        return f"{said} has answers whose questions are in another file: name both files"
    if "empty_records" in lost:
        return f"{said} names images, but says neither captions nor answers; those may be in another file or field"
    return (
        f"{said} is of no known shape: COCO captions, questions and annotations as of VQA v2, data as of DocVQA, or "
        "records that name an image (file_name, image, image_id, ...) and have a caption or answers"
    )


def _identity(record: Mapping[str, Any]) -> tuple[str | None, str | int | None]:
    """Return the name of a record's image and its id; `id` may be anything's, and counts where nothing else does."""
    values = [record.get(name) for name in _NAMES]
    values = [value.get("path") if isinstance(value, Mapping) else value for value in values]
    texts = (value for value in values if isinstance(value, str) and value.strip() and not value.startswith("data:"))
    name = next(texts, None)
    ids = [record.get(key) for key in (_IDS if name else (*_IDS, "id"))]
    known = (one for one in ids if isinstance(one, int | str) and not isinstance(one, bool) and one != "")
    image_id = next(known, None)
    if isinstance(image_id, str) and image_id.isdecimal() and image_id == str(int(image_id)):
        image_id = int(image_id)  # as tables without types have it
    return None if name is None else _plain_path(name), image_id


def _name_of(record: Any) -> str:
    if isinstance(record, BadRecord):
        return str(record)
    known = [*image_names(record), record.get("question_id"), record.get("question"), "without a name"]
    return next(str(one) for one in known if one is not None)


def _plain_path(name: str) -> str:
    """Return a name as paths are compared; of a URL without what follows a question mark."""
    path = name.partition("?")[0] if "://" in name else name
    return storable(posixpath.normpath(path.strip().replace("\\", "/")))


def _ends(name: str) -> Iterator[str]:
    """`b/c.jpg`, `b/c`, `c.jpg`, `c`: the longest first."""
    parts = _plain_path(name).split("/")[-_MOST_PARTS:]
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        yield end
        if _SUFFIX.search(end):
            yield _SUFFIX.sub("", end)


def _shown(urls: Sequence[str]) -> str:
    return " with ".join(map(repr, urls))
