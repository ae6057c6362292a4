"""Whole numbers for formats that identify images and questions by them: taken from a column, or counted."""

from typing import Any

from conf.errors import UserError


class Numbers:
    """key -> number: the value of the row's `column` if there is one, else 1, 2, 3 in order of first appearance."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self.given: dict[str, int] = {}  # so far

    def __call__(self, key: str, row: dict[str, Any]) -> tuple[int, bool]:
        """(number, whether the key is new)."""
        known = self.given.get(key)
        if known is not None:
            return known, False
        number = len(self.given) + 1 if self._column is None else self._parse(row[self._column], key)
        self.given[key] = number
        return number, True

    def _parse(self, value: Any, key: str) -> int:
        try:
            number = int(value)
            if not isinstance(value, str) and number != value:
                raise ValueError(value)
            return number
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"column {self._column!r} of {key} is {value!r}, not a whole number") from None
