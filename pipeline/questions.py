"""Questions -> the prompts of a sample, each once."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from conf.errors import UserError
from conf.schema import PromptConfig
from conf.vqa import QuestionsConfig
from pipeline.prompts import make_prompts


@dataclass(frozen=True)
class Questions:
    """Resolved: what was in the file is in `ask`."""

    ask: tuple[str, ...]
    field: str | None
    template: str

    @classmethod
    def resolve(cls, config: QuestionsConfig) -> "Questions":
        """UserError when the file cannot be read or nothing is asked."""
        ask = [*config.ask]
        if config.file is not None:
            try:
                with fsspec.open(config.file, "r", encoding="utf-8") as stream:
                    lines = [line.strip() for line in stream]
            except (OSError, ValueError, ImportError) as error:
                raise UserError(f"cannot read questions.file {config.file!r}: {error}") from None
            ask += [line for line in lines if line and not line.startswith("#")]
        if not ask and config.field is None:
            raise UserError(f"questions.file {config.file!r} holds no question")
        return cls(tuple(dict.fromkeys(ask)), config.field, config.template)

    @property
    def digest(self) -> str:
        """Equal for equal sets of questions, whatever their order."""
        content = json.dumps([sorted(self.ask), self.field, self.template])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields of a sample that its prompts are made of."""
        named = re.findall(r"\{([^{}]+)\}", " ".join((*self.ask, self.template)))
        return tuple(dict.fromkeys(n for n in (*named, self.field) if n is not None and n != "question"))

    def prompts(self, fields: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """(prompt, fields of its own) of one sample; LookupError says which field is missing."""
        made: list[tuple[str, Mapping[str, Any]]] = []
        for question in self.ask:
            text = make_prompts(PromptConfig(template=question), fields)[0][0]
            made += make_prompts(PromptConfig(template=self.template), {**fields, "question": text})
        if self.field is not None:
            found = fields.get(self.field)
            items = [item for item in (found if isinstance(found, list) else [found]) if item is not None]
            if not items and not made:
                raise LookupError(f"field {self.field!r} holds no question")
            for item in items:
                own = item if isinstance(item, Mapping) else {"question": item}
                made.append((make_prompts(PromptConfig(template=self.template), {**fields, **own})[0][0], own))
        first: dict[str, Mapping[str, Any]] = {}
        for prompt, own in made:
            first.setdefault(prompt, own)
        return list(first.items())
