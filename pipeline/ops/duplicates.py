"""Exact duplicates: an image and a prompt that were answered before get that answer again, without the engine.

"The same" is the sha256 of the image file, the text of the prompt, and a limit of the output's own. A copied row names
the row it was copied from in `duplicate_of`, has no times, and took none of the device's.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.tables import ANSWER

Key = tuple[str, str, int | None]  # sha256, prompt, its own limit of tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """The columns of a results row that a duplicate of it gets."""

    columns: dict[str, Any]


class AnswerBook:
    """The answers used last, for all actors of a run. Losing it, or any of them, costs work and no rows."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[Key, bytes] = OrderedDict()  # packed, which is a fraction of the objects' size

    def known(self, keys: Sequence[Key]) -> list[Answer | None]:
        return [self._look_up(key) for key in keys]

    def add(self, answers: Mapping[Key, Answer]) -> None:
        for key, answer in answers.items():
            self._answers.setdefault(key, pickle.dumps(answer))
            self._answers.move_to_end(key)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def _look_up(self, key: Key) -> Answer | None:
        packed = self._answers.get(key)
        if packed is None:
            return None
        self._answers.move_to_end(key)
        answer: Answer = pickle.loads(packed)  # written a few lines above
        return answer


def key_of(row: Mapping[str, Any]) -> Key | None:
    """Of a prepared row; None where nothing can be said about its image."""
    return None if row.get("sha256") is None else (row["sha256"], row["prompt"], row.get("max_new_tokens"))


def repeats_of(prepared: pa.Table, positions: Sequence[int]) -> dict[int, int]:
    """Position -> the first of these positions with the same image and prompt, for all but the first."""
    columns = [prepared[name].to_pylist() for name in ("sha256", "prompt", "max_new_tokens")]
    first: dict[Key, int] = {}
    repeats: dict[int, int] = {}
    for position in positions:
        sha256, prompt, limit = (column[position] for column in columns)
        if sha256 is not None and first.setdefault((sha256, prompt, limit), position) != position:
            repeats[position] = first[sha256, prompt, limit]
    return repeats


def as_copy(columns: Mapping[str, Any], sample_id: str) -> dict[str, Any]:
    """Return the columns a row gets from another one's outcome; a failure is everybody's own."""
    if columns.get("stage") is not None:
        return dict(columns)
    copied = {name: columns.get(name) for name in ANSWER}
    copied["fallback"] = columns.get("fallback")  # the copied text is full depth's
    return {**copied, "duplicate_of": columns.get("duplicate_of") or sample_id, "device_s": 0.0}


def answers_of(rows: Sequence[dict[str, Any]]) -> dict[Key, Answer]:
    """Return what is to be remembered of a finished chunk: the rows the engine has answered."""
    return {
        key: Answer(as_copy(row, row["sample_id"]))
        for row in rows
        if row.get("text") is not None and row.get("duplicate_of") is None and (key := key_of(row)) is not None
    }
