"""Where the records of a text are, found in bounded memory and unparsed: lines, lines with quotes, JSON arrays."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.source.plan import ByteRange

_BLOCK_BYTES = 1 << 20
_MOST_LINES = 100_000  # of one record with line breaks inside quotes
_JSON_MARKS = re.compile(rb'[\\"\[\]{},]')


class Blocks(Protocol):
    """A stream that gives as many bytes as it is asked for, fewer only at its end."""

    def read(self, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Line:
    size: int
    odd: bool  # number of quotes
    blank: bool


def line_places(stream: Blocks, position: int, newline: bytes = b"\n") -> Iterator[ByteRange]:
    """Yield every line that holds something; `position` is where the stream stands."""
    for line in _lines(stream, newline, quoted=False):
        if not line.blank:
            yield ByteRange(position, line.size)
        position += line.size


def quoted_places(stream: Blocks, position: int, newline: bytes, max_bytes: int) -> Iterator[ByteRange]:
    """Records in which a line break inside quotes ends nothing, that is after an odd number of quotes so far.

    A quote that is not closed within `max_bytes` was a mistake: it costs its own line, and what follows is read anew.
    """
    lines = _lines(stream, newline, quoted=True)
    again: deque[_Line] = deque()  # lines that were taken for a part of a record which did not end
    while (line := again.popleft() if again else next(lines, None)) is not None:
        if not line.odd:
            if not line.blank:
                yield ByteRange(position, line.size)
            position += line.size
            continue
        taken, size, ended = [line], line.size, False
        while not ended and size <= max_bytes and len(taken) < _MOST_LINES:
            more = again.popleft() if again else next(lines, None)
            if more is None:
                break
            taken.append(more)
            size, ended = size + more.size, more.odd
        if not ended:
            again.extendleft(reversed(taken[1:]))
            size = line.size
        yield ByteRange(position, size)
        position += size


def _lines(stream: Blocks, newline: bytes, *, quoted: bool) -> Iterator[_Line]:
    size, odd, blank = 0, False, True  # of the line so far
    while block := stream.read(_BLOCK_BYTES):
        pieces = block.split(newline)
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            size += len(piece)
            odd ^= quoted and piece.count(b'"') % 2 == 1
            blank = blank and not piece.strip()
            if number < last:
                yield _Line(size + 1, odd, blank)
                size, odd, blank = 0, False, True
    if size:
        yield _Line(size, odd, blank)


def element_places(stream: Blocks, position: int) -> Iterator[ByteRange]:
    """Yield the elements of a JSON array, of whatever kind; the stream stands behind the bracket or a comma.

    An array that is cut ends with a part of an element; what follows its end is one more place. Neither will parse.
    """
    start, depth, in_text, blank, ended = position, 1, False, True, False
    skipped = -1  # where a character stands that a backslash has taken the meaning from
    while block := stream.read(_BLOCK_BYTES):
        done = 0  # how far the block was looked at for something that is not blank
        for match in _JSON_MARKS.finditer(block) if not ended else ():
            at, mark = position + match.start(), match.group()
            if at == skipped:
                continue
            if in_text:
                if mark == b"\\":
                    skipped = at + 1
                elif mark == b'"':
                    in_text = False
                continue
            if depth == 1 and mark in b",]":
                blank = blank and not block[done : match.start()].strip()
                if not blank or mark == b",":
                    yield ByteRange(start, at - start)
                start, blank, done = at + 1, True, match.end()
                if mark == b"]":
                    ended = True
                    break
            elif mark == b'"':
                in_text = True
            elif mark in b"[{":
                depth += 1
            elif mark in b"]}":
                depth -= 1
        blank = blank and not block[done:].strip()
        position += len(block)
    if not blank:
        yield ByteRange(start, position - start)
