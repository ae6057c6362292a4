"""What a URI in a manifest means: its scheme, the file it names, the bytes it carries; and how a message shows it."""

import base64
import binascii
import os
import posixpath
import re
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from pipeline.text import original, storable

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_JAVAS_FILE = re.compile(r"^file:(?=/(?!/))", re.IGNORECASE)  # as Java and Spark write file:///
_DATA = re.compile(r"^data:", re.IGNORECASE)
_SHOWN_CHARACTERS, _SHOWN_DATA = 200, 40


class BadUri(ValueError):
    """What is wrong with a URI, without the URI itself."""


def scheme_of(uri: str) -> str:
    """In small letters; a path without a scheme is a file."""
    if _DATA.match(uri):
        return "data"
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def has_scheme(uri: str) -> bool:
    return _SCHEME.match(uri) is not None or scheme_of(uri) != "file"


def is_web(uri: str) -> bool:
    return scheme_of(uri) in ("http", "https")


def absolute(uri: str, base_url: str) -> str:
    """Return a URI as it is; a path without a scheme is one beside the file `base_url`, on the same storage."""
    uri = _JAVAS_FILE.sub("file://", uri)
    if has_scheme(uri):
        return uri
    if is_web(base_url):
        try:
            return urljoin(base_url, uri)
        except ValueError:  # as //[a
            return uri
    return uri if posixpath.isabs(uri) else posixpath.join(posixpath.dirname(base_url), uri)


def shown(uri: str) -> str:
    """A URI as messages show it: on one line, and never with all that a data: URI or an endless query carries."""
    kept = _SHOWN_DATA if scheme_of(uri) == "data" else _SHOWN_CHARACTERS
    text = "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else " " for c in uri[:kept])
    return storable(text) if len(uri) <= kept else f"{storable(text)}... ({len(uri)} characters)"


def local_path(uri: str) -> str:
    """Return the file that a path or a file:// URI names.

    Percent-escapes of file:// are undone, those of a plain path are letters like others; a name in the escaped form of
    our own tables is the one it stands for. Where only the other reading exists, that is meant.
    """
    match = _SCHEME.match(uri)
    if match is None:
        readings = (uri, original(uri))
    else:
        path = uri[match.end() :]
        path = path if path.startswith("/") else "/" + path.partition("/")[2]  # file://localhost/...
        readings = (unquote(path, errors="surrogateescape"), path)
    try:
        if b"\0" in os.fsencode(readings[0]):
            raise BadUri("holds a zero byte")
    except UnicodeEncodeError:
        raise BadUri("holds half a character, which no file's name can") from None
    return next((path for path in readings if os.path.lexists(path)), readings[0])


def data_of(uri: str, max_bytes: int) -> bytes | None:
    """The bytes a data: URI carries, None if they are more than `max_bytes`; BadUri if they cannot be decoded."""
    head, comma, payload = uri.partition(",")
    if not comma:
        raise BadUri("has no comma before its data")
    if not head.lower().rstrip().endswith(";base64"):
        data = unquote_to_bytes(payload.encode("utf-8", "surrogatepass"))
        return data if len(data) <= max_bytes else None
    if len(payload) // 4 * 3 > 3 * max_bytes + 3:  # every character may be escaped as three
        return None
    text = re.sub(r"\s+", "", unquote(payload)).translate(str.maketrans("-_", "+/")).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadUri(f"holds no base64: {error}") from None


def host_of(url: str) -> str:
    """Return the host and port; BadUri where there is no host."""
    try:
        place = urlsplit(url)
        host, port = place.hostname, place.port
    except ValueError as error:
        raise BadUri(str(error)) from None
    if not host:
        raise BadUri("has no host")
    return host if port is None else f"{host}:{port}"
