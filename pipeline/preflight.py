"""Mistakes in the names of fields, told before anything runs: what a configuration names, some row must have.

A source with a schema is asked for its columns; of any other the first rows of a few shards are read, in a few seconds.
What cannot be read says nothing: that is for the run. Fields that only some rows have are no mistake.
"""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.errors import UserError
from conf.rows import USUAL_FIELDS, TaskConfig
from conf.source import PromptConfig, SourceConfig, SourceKind
from conf.templates import BRACES, field_place, parse_template
from pipeline.source.plan import Shard
from pipeline.source.prompts import kind_of
from pipeline.source.questions import QUESTION, Questions
from pipeline.source.readers import FirstFields, Reader
from pipeline.source.readers.tables.column_names import did_you_mean, doubled, names_in_words
from pipeline.source.readers.tables.json_values import in_words
from pipeline.text import storable

_MOST_SHARDS = 5
_MOST_SECONDS = 10.0  # for all of them
_MOST_NAMES = 20  # in a message


@dataclass(frozen=True, slots=True)
class _Use:
    """A field that a setting names. `in_items`: a prompt of the list may have it, too; `as_text`: it stands in one."""

    name: str
    setting: str
    in_items: bool = True
    as_text: bool = False


@dataclass(slots=True)
class _Found:
    """What the shards that were looked at have."""

    columns: set[str] | None = None  # None: no schema
    doubled: set[str] = field(default_factory=set)  # columns that another one of the same file is called like
    place: str = ""  # the file that was asked for its columns
    names: dict[str, None] = field(default_factory=dict)  # of all rows, in order
    values: dict[str, list[Any]] = field(default_factory=dict)  # of those that are asked for, where they are not null
    num_rows: int = 0
    says_all: bool = True


def check_fields(reader: Reader, source: SourceConfig, shards: Sequence[Shard]) -> None:
    """Raise UserError for a field that no row of the source has; one sentence, with the names that are like it."""
    uses = _uses_beside_prompts(source)
    if source.kind is SourceKind.MANIFEST:
        uses.insert(0, _Use(source.uri_column, "source.uri_column", in_items=False))
    _check_prompt(reader, source, shards, source.prompt, "source.prompt", uses)


def check_task_fields(reader: Reader, source: SourceConfig, task: TaskConfig, at: str, shards: Sequence[Shard]) -> None:
    """The same for one of the tasks of conf/rows.py. `at`: where in the configuration it is; none: its beginning."""
    target, uses = task.target, []
    if target.template is not None:
        uses += _uses_of_template(f"{at}target.template", target.template)
    elif target.field not in (None, USUAL_FIELDS) and not target.references:
        uses.append(_Use(target.field.partition(".")[0], f"{at}target.field"))
    in_references = (QUESTION,) if target.references else ()
    _check_prompt(reader, source, shards, task.prompt, f"{at or 'source.'}prompt", uses, in_references)


def _check_prompt(
    reader: Reader, source: SourceConfig, shards: Sequence[Shard], prompt: PromptConfig, setting: str,
    uses: Sequence[_Use], known: Collection[str] = (),
) -> None:  # fmt: skip
    """`known`: what the template may name although no row has it."""
    own = [use for use in _uses_of_template(f"{setting}.template", prompt.template) if use.name not in known]
    if prompt.limit_field is not None:
        own.append(_Use(prompt.limit_field, f"{setting}.limit_field"))
    if prompt.words_field is not None:
        own.append(_Use(prompt.words_field.partition(".")[0], f"{setting}.words_field", in_items=False))
    _check(reader, source, shards, [*uses, *own], prompt.list_field, f"{setting}.list_field", prompt.template, None)


def check_question_fields(
    reader: Reader, source: SourceConfig, questions: Questions, shards: Sequence[Shard], *, first: bool
) -> None:
    """The same for `deed vqa`. `first`: the output is new, and its other settings are looked at as well."""
    uses = _uses_beside_prompts(source) if first else []
    for asked in questions.ask:
        uses += _uses_of_template("a question of questions.ask or questions.file", asked)
    own = _uses_of_template("questions.template", questions.template)
    uses += [use for use in own if use.name != QUESTION]
    _check(reader, source, shards, uses, questions.field, "questions.field", questions.template, QUESTION)


def _uses_beside_prompts(source: SourceConfig) -> list[_Use]:
    uses = [_Use(name, "source.passthrough") for name in source.passthrough]
    return uses if source.id_column is None else [*uses, _Use(source.id_column, "source.id_column", in_items=False)]


def _uses_of_template(setting: str, template: str) -> list[_Use]:
    return [_Use(name, setting, as_text=True) for name in parse_template(template).names]


def _check(
    reader: Reader,
    source: SourceConfig,
    shards: Sequence[Shard],
    uses: Sequence[_Use],
    list_field: str | None,
    list_setting: str,
    template: str,
    called: str | None,  # what an item that is no object is called in the template; None: as the list
) -> None:
    lists = [] if list_field is None else [_Use(list_field, list_setting, in_items=False)]
    if not uses and not lists:
        return
    asked = {use.name for use in (*uses, *lists)}
    found = _look(reader, shards, asked, source.check_rows)
    items = [] if list_field is None else _items(found.values.get(list_field, ()))
    item_names = dict.fromkeys(name for item in items if isinstance(item, Mapping) for name in item)
    if list_field is not None and called is None and any(not isinstance(item, Mapping) for item in items):
        item_names[list_field] = None
    unsure = bool(lists) and not items  # an item may have any name
    for use in (*lists, *uses):
        if (use.name in item_names or unsure) and use.in_items:
            continue
        _check_name(use, found, item_names)
        if use.as_text and use.name not in item_names:
            _check_text(use, found.values.get(use.name, ()))
    if list_field is not None:
        _check_list(list_field, list_setting, template, found.values.get(list_field, ()), items, called)


def _check_name(use: _Use, found: _Found, item_names: Iterable[str]) -> None:
    if use.name in found.doubled:
        raise UserError(doubled(use.setting, use.name, found.place))
    if found.columns is not None:
        if use.name in found.columns:
            return
        has, known = f"is no column of {storable(found.place)!r}", sorted(found.columns)
    else:
        if use.name in found.names or not found.num_rows or not found.says_all:
            return
        rows = "the only row does not have" if found.num_rows == 1 else f"none of the {found.num_rows} first rows has"
        has, known = rows, list(found.names)
    known = [name for name in dict.fromkeys([*known, *item_names]) if isinstance(name, str)]
    said = f"{use.setting} names {use.name!r}, which {has}"
    close = did_you_mean(use.name, known)
    said += f"{close} There" if close else "; there"
    said += f" {'is' if len(known) == 1 else 'are'} {names_in_words(known) or 'no fields at all'}"
    if use.as_text:
        said += f"; {BRACES}"
    elif found.columns is None:
        said += "; source.check_rows=0 leaves this out, where later rows have it"
    raise UserError(said)


def _check_text(use: _Use, values: Sequence[Any]) -> None:
    kinds = [kind_of(value) for value in values]
    if kinds and all(kind is not None for kind in kinds):
        raise UserError(f"{use.setting} needs a text in {field_place(use.name)}, and the field holds {kinds[0]}")


def _check_list(
    name: str, setting: str, template: str, values: Sequence[Any], items: Sequence[Any], called: str | None
) -> None:
    """The rule: a list of texts, or of objects one of whose keys the template names."""
    if called is None and values and not any(isinstance(value, list) for value in values):
        raise UserError(f"{setting}={name!r} must be a field with a list, and it holds {_kind(values[0])}")
    named = parse_template(template).names
    objects = [item for item in items if isinstance(item, Mapping)]
    if objects and len(objects) == len(items):
        keys = list(dict.fromkeys(str(key) for item in objects for key in item))
        if not any(key in named for key in keys):
            example = field_place("question" if "question" in keys or not keys else keys[0])
            has = ", ".join(map(storable, keys[:_MOST_NAMES])) or "none"
            raise UserError(
                f"{setting}={name!r} holds objects, so the template must name one of their keys, for example "
                f"{example}: they have {has}, and the template is {template!r}"
            )
    elif items and not objects and called is None and template != PromptConfig().template and name not in named:
        raise UserError(
            f"{setting}={name!r} holds texts, so the template must say where they go, by {field_place(name)}; it is "
            f"{template!r}"
        )


def _kind(value: Any) -> str:
    return kind_of(value) or in_words(value)


def _items(values: Iterable[Any]) -> list[Any]:
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [item for items in lists for item in items if item is not None]


def _look(reader: Reader, shards: Sequence[Shard], asked: set[str], most_rows: int) -> _Found:
    """Look at a few shards, until all that is asked for has been seen."""
    found, until_s = _Found(), time.monotonic() + _MOST_SECONDS
    for shard in _spread(shards):
        first = _in_time(reader, shard, most_rows, until_s)
        if first is None:
            found.says_all = False
            continue
        if first.columns is not None:
            found.columns = (found.columns or set()) | set(first.columns)
            found.doubled |= {name for name, times in Counter(first.columns).items() if times > 1}
            found.place = found.place or shard.url
        found.says_all = found.says_all and first.says_all
        found.num_rows += len(first.rows)
        for row in first.rows:
            found.names.update(dict.fromkeys(row))
            for name in asked & row.keys():
                if row[name] is not None:
                    found.values.setdefault(name, []).append(row[name])
        if asked <= found.names.keys() or time.monotonic() > until_s:
            break
    return found


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """Return the first, the last, and some between."""
    if len(shards) <= _MOST_SHARDS:
        return list(shards)
    return [shards[n * (len(shards) - 1) // (_MOST_SHARDS - 1)] for n in range(_MOST_SHARDS)]


def _in_time(reader: Reader, shard: Shard, most_rows: int, until_s: float) -> FirstFields | None:
    """None where the shard cannot be read, or not in time: a storage that hangs must not hold up a run's start."""
    result: list[FirstFields] = []

    def look() -> None:
        try:
            result.append(reader.first_fields(shard, most_rows, until_s))
        except Exception:  # each storage, and each way of being damaged, has exceptions of its own
            return

    thread = threading.Thread(target=look, name="first fields", daemon=True)
    thread.start()
    thread.join(max(0.0, until_s - time.monotonic()))
    return result[0] if result else None
