"""Texts with places for fields: `{name}` stands for a field, `{{` and `}}` for braces, as in str.format."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

BRACES = "write {{ and }} for literal braces"
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NO_NAME = re.compile(r"[\"'`\x00-\x1f]")
_MOST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Template:
    """`pieces` are texts and, in between, names of fields: text, name, text, name, .., text."""

    pieces: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the fields it needs, each once, in order."""
        return tuple(dict.fromkeys(self.pieces[1::2]))

    @property
    def uses(self) -> Counter[str]:
        """Count how often it needs each."""
        return Counter(self.pieces[1::2])

    @property
    def num_own_characters(self) -> int:
        return sum(map(len, self.pieces[::2]))

    def fill(self, values: dict[str, str]) -> str:
        return "".join(values[piece] if n % 2 else piece for n, piece in enumerate(self.pieces))


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template:
    """Parse a text; ValueError, one sentence, for braces neither doubled nor around what may be the name of a field."""
    pieces, position = [""], 0
    for match in _TOKEN.finditer(text):
        pieces[-1] += text[position : match.start()]
        position, found, name = match.end(), match.group(), match.group(1)
        if found in ("{{", "}}"):
            pieces[-1] += found[0]
        elif name is not None and _may_be_a_name(name):
            pieces += [name, ""]
        else:
            what = "a single brace" if name is None else f"{_shown(found)}, which is no name of a field,"
            raise ValueError(f"{what} stands in {_shown(text)}; {BRACES}")
    pieces[-1] += text[position:]
    return Template(tuple(pieces))


def field_place(name: str) -> str:
    """Return `{name}`, as templates and messages have it."""
    return f"{{{name}}}"


def _may_be_a_name(name: str) -> bool:
    return name == name.strip() and any(c.isalnum() or c == "_" for c in name) and _NO_NAME.search(name) is None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "...")
