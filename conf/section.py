"""What all sections of a configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def later(default: Any, **options: Any) -> Any:
    """Return a field that checkpoints written by earlier versions do not have: where it has its default value it is not
    written at all, so that what was known by a hash of its configuration stays known by it."""
    return Field(default, exclude_if=lambda value: value == default, **options)
