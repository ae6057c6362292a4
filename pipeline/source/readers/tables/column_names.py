"""What is said of a column that a table does not have: which it has, and what the table's first line looks like."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from conf.table import TableConfig
from pipeline.source.readers.fetching.uris import has_scheme, shown
from pipeline.source.readers.file_kinds import is_image_name
from pipeline.text import storable

_MOST_NAMES = 20  # in a message
_DELIMITERS = ";\t|,"


def not_among(setting: str, name: str, url: str, names: Sequence[str]) -> str:
    """Return the sentence, without advice."""
    has = f"which has {names_in_words(names)}" if names else "which is empty"
    return f"{setting}={name!r} is no column of {storable(url)!r}, {has}"


def doubled(setting: str, name: str, url: str) -> str:
    """Return the same for a name that does not say which column is meant."""
    return f"{setting} names {name!r}, and two columns of {storable(url)!r} are called so"


def names_in_words(names: Iterable[str]) -> str:
    """Names as a list in a sentence, the first twenty; in quotes where they could not be seen otherwise."""
    known = list(names)
    quoted = (repr(name) if not name.strip() or name != name.strip() else shown(name) for name in known[:_MOST_NAMES])
    return ", ".join(quoted) + (", ..." if len(known) > _MOST_NAMES else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'text'?`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def why_no_column(name: str, names: Sequence[str], table: TableConfig | Literal[False]) -> str:
    """Return what to do about it, by what the first line of a text table (False: of another) looks like, or nothing."""
    if not table or table.columns is not None or not names:
        return did_you_mean(name, names)
    halves = [set(names[0][n::2]) == {"\0"} for n in (0, 1)]
    if table.encoding == "auto" and any(halves):
        order = "be" if halves[0] else "le"
        return f"; if it is in UTF-16, say so: source.table.encoding=utf-16-{order}"
    between = next((mark for mark in _DELIMITERS if mark in names[0]), None)
    if len(names) == 1 and between is not None:
        how = "format=tsv" if between == "\t" else f"delimiter='{between}'"
        called = {";": "semicolons", "\t": "tabs", ",": "commas"}.get(between, repr(between))
        return f"; if {called} stand between its cells, say so: source.table.{how}"
    if any(has_scheme(one) or is_image_name(one) for one in names):
        example = [name if has_scheme(one) or is_image_name(one) else f"column{n}" for n, one in enumerate(names, 1)]
        return f"; if these are no names but data, name its columns: source.table.columns='[{', '.join(example)}]'"
    return did_you_mean(name, names)
