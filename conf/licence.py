"""The licence of a model, as its folder states it, and the small texts that travel with its weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conf.checkpoint_files import CONFIG_FILE
from conf.errors import UserError
from conf.json_file import read_object

CARD_FILE = "README.md"  # with YAML front matter, as model hubs read it
SOURCE_FOLDER = "source"  # of a checkpoint: what its model directory had beside the weights
OTHER = "other"  # what hubs call a licence that is none of those they list
_MOST_BYTES = 1_000_000
_LONGEST = 200  # characters of a value in a front matter
_LICENCE_FILE = re.compile(r"(licen[sc]e|copying)([-._].*)?", re.IGNORECASE)
_NOTICE_FILE = re.compile(r"notice([-._].*)?", re.IGNORECASE)
_GRANT = "permission is hereby granted, free of charge, to any person obtaining a copy"
_KEPT_NOTICE = "the above copyright notice and this permission notice shall be included"
_REDISTRIBUTION = "redistribution and use in source and binary forms"
_ADVERTISING = "all advertising materials"  # a condition that these licences have dropped
_CREATIVE_COMMONS = {
    "": "cc-by-4.0", "-sharealike": "cc-by-sa-4.0", "-noderivatives": "cc-by-nd-4.0", "-noncommercial": "cc-by-nc-4.0",
    "-noncommercial-sharealike": "cc-by-nc-sa-4.0", "-noncommercial-noderivatives": "cc-by-nc-nd-4.0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Licence:
    """What a front matter of hubs says: `name` is that of one they do not list, whose `id` is then "other"; `link` is
    an address or a path in the folder of the model."""

    id: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.name or self.id


def licence_of(checkpoint: Path) -> str | None:
    """Return the licence of a checkpoint or of a model directory; None where nothing in it says one."""
    licence = read_licence(checkpoint)
    return None if licence is None else str(licence)


def read_licence(checkpoint: Path) -> Licence | None:
    """Return what the folder says: the front matter of its README.md, else `license` in its config.json, else the text
    of a licence file, which is "other" where it is none of the well-known ones. None: it does not say.

    Of a checkpoint its own README.md comes first, then what came with the model it was made of.
    """
    folders = [checkpoint, checkpoint / SOURCE_FOLDER]
    texts = [f"{prefix}{name}" for folder, prefix in zip(folders, ("", f"{SOURCE_FOLDER}/"), strict=True)
             for name in travelling_texts(folder) if _LICENCE_FILE.fullmatch(name)]  # fmt: skip
    link = texts[0] if texts else None
    for folder in folders:
        values = _front_matter(folder / CARD_FILE)
        if (licence := _of_front_matter(values, checkpoint, texts)) is not None:
            return licence
    if (named := _of_config(checkpoint)) is not None:
        return Licence(named, None, link)
    found = {_of_text(_read(checkpoint / name)) for name in texts}
    return Licence(found.pop() if len(found) == 1 else OTHER, None, link) if found else None


def travelling_texts(folder: Path) -> list[str]:
    """Return the names of the files that must stay with a model: its README.md, licences and notices, if small."""
    try:
        names = sorted(file.name for file in folder.iterdir() if file.is_file() and _size(file) <= _MOST_BYTES)
    except OSError:
        return []
    return [n for n in names if n == CARD_FILE or _LICENCE_FILE.fullmatch(n) or _NOTICE_FILE.fullmatch(n)]


def _size(file: Path) -> int:
    return file.stat().st_size


def _read(file: Path) -> str:
    try:
        return "" if _size(file) > _MOST_BYTES else file.read_bytes().decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _front_matter(card: Path) -> dict[str, Any]:
    """Return its entries about the licence; the others, which may be megabytes of results, are not parsed."""
    lines = iter(_read(card).splitlines())
    if next(lines, "").rstrip() != "---":
        return {}
    about = "\n".join(_licence_lines(lines))
    try:
        values = yaml.safe_load(about)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _licence_lines(lines: Iterator[str]) -> Iterator[str]:
    wanted = False
    for line in lines:
        if line.rstrip() in ("---", "..."):
            return
        if line[:1] not in ("", " ", "\t", "-", "#"):  # a key of the outermost level
            wanted = line.startswith(("license:", "license_name:", "license_link:"))
        if wanted:
            yield line


def _of_front_matter(values: dict[str, Any], checkpoint: Path, texts: list[str]) -> Licence | None:
    said = values.get("license")
    several = [text for text in map(_line, said if isinstance(said, list) else [said]) if text is not None]
    if not several:
        return None
    name, link = _line(values.get("license_name")), _line(values.get("license_link"))
    if link is not None and not re.match(r"https?://[^\s)>\]]+$", link):
        link = next((text for text in texts if text in (link, f"{SOURCE_FOLDER}/{link}")), None)
    link = link or (texts[0] if texts else None)
    if len(several) > 1:
        return Licence(OTHER, ", ".join(several), link)
    return Licence(several[0], name if several[0] == OTHER else None, link)


def _of_config(checkpoint: Path) -> str | None:
    try:
        values = read_object(checkpoint / CONFIG_FILE) or {}
    except UserError:
        return None
    encoder = values.get("encoder")  # of a checkpoint, which keeps there what the model's config.json said
    theirs = encoder.get("hf_config") if isinstance(encoder, dict) else None
    return _line((theirs if isinstance(theirs, dict) else values).get("license"))


def _line(value: Any) -> str | None:
    """Return a text of somebody else's as one short line; None for what is none."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if text and text.isprintable() and len(text) <= _LONGEST else None


def _of_text(text: str) -> str:
    """Return the licence whose words a text has; "other" where it has those of none, or of several."""
    words = " ".join(text.lower().split())
    found = {
        "apache-2.0": "apache license version 2.0" in words,
        "mit": _GRANT in words and _KEPT_NOTICE in words and "shall not be used in advertising" not in words,
        "bsd-3-clause": _REDISTRIBUTION in words and "neither the name of" in words and _ADVERTISING not in words,
        "bsd-2-clause": _REDISTRIBUTION in words and "neither the name of" not in words and _ADVERTISING not in words,
        "gpl-3.0": words.startswith("gnu general public license version 3"),
        "agpl-3.0": words.startswith("gnu affero general public license version 3"),
        "cc0-1.0": "cc0 1.0 universal" in words,
    } | {name: f"attribution{kind} 4.0 international" in words for kind, name in _CREATIVE_COMMONS.items()}
    names = [name for name, here in found.items() if here]
    return names[0] if len(names) == 1 else OTHER
