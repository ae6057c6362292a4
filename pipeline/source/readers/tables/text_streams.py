"""The text of a table file as bytes in which records can be found, whatever its storage, compression and encoding.

What is compressed, or in an encoding in which a line feed or a quote is not the byte it is in ASCII (UTF-16), is read
from its beginning, the latter as UTF-8; everything else can be sought in.
"""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from conf.table import TableConfig
from pipeline.source.file_systems import resolve
from pipeline.source.readers.compression import decompressed, read_up_to
from pipeline.source.readers.fetching.files import open_file

HEAD_BYTES = 64 * 1024
BOM = codecs.BOM_UTF8
_MARKS = (  # the longer ones first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_STEP_BYTES = 1 << 20


@dataclass
class TextStream:
    """Bytes in ascending order. `encoding` is theirs; `from_beginning`: what lies before has to be read as well."""

    head: bytes
    encoding: str
    from_beginning: bool
    _stream: IO[bytes]
    _position: int = 0

    def read(self, size: int) -> bytes:
        """As many bytes, fewer only at the end."""
        held = self.head[self._position : self._position + size]
        data = held + read_up_to(self._stream, size - len(held)) if len(held) < size else held
        self._position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Forward to a byte, or to the end if there are fewer."""
        if position > len(self.head) and not self.from_beginning and position != self._position:
            self._stream.seek(position)
            self._position = position
        while self._position < position and self.read(min(_STEP_BYTES, position - self._position)):
            pass
        assert self._position <= position, "places must ascend"


@contextmanager
def open_text(url: str, table: TableConfig) -> Iterator[TextStream]:
    fs, inner = resolve(url)
    with open_file(fs, inner) as raw:
        stream, compression = decompressed(raw)
        head = read_up_to(stream, HEAD_BYTES)
        encoding = table.encoding
        if encoding == "auto":
            encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        if '\r\n"'.encode(encoding) == b'\r\n"':  # line breaks and quotes are found by their bytes
            yield TextStream(head, encoding, compression is not None or not raw.seekable(), stream)
            return
        recoded = _Recoded(head, stream, encoding)
        yield TextStream(read_up_to(recoded, HEAD_BYTES), "utf-8", True, recoded)  # type: ignore[arg-type]


class _Recoded:
    """A stream in another encoding, as UTF-8; what cannot be decoded becomes the replacement character."""

    def __init__(self, head: bytes, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = self._decoder.decode(head).encode("utf-8", "replace")
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._ended:
            block = self._stream.read(_STEP_BYTES)
            self._ended = not block
            self._ready += self._decoder.decode(block, final=self._ended).encode("utf-8", "replace")
        data, self._ready = self._ready[:size], self._ready[size:]
        return data
