"""Text from outside (captions, file names, messages) made harmless to look at: nothing hidden, nothing endless."""

import re
import unicodedata

LONGEST = 400  # characters of one value; more is cut where a report shows it


def visible(text: str, longest: int = LONGEST) -> str:
    """One line without control and direction characters, which could hide text or drive a terminal; cut if too long."""
    text = text[: 4 * longest]  # before any work: a value may be megabytes
    line = " ".join("".join(map(_visible, text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def visible_piece(text: str, longest: int = LONGEST) -> str:
    """Return the same for a piece of a text, whose outer spaces matter."""
    return "".join(" " if char in "\n\r\t" else _visible(char) for char in text[:longest])


def _visible(char: str) -> str:
    if char in "\n\r\t":
        return " "
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char != "\u200d"
    return f"\\u{ord(char):04x}" if hidden else char


def markdown(text: str) -> str:
    """Return a value inside Markdown, table cells included: it is shown as it is, calls nobody and links nowhere."""
    escaped = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", visible(text))
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "&#64;"), ("://", "&#58;//")):
        escaped = escaped.replace(char, entity)
    return escaped
