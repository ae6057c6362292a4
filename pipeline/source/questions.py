"""Questions -> the prompts of a sample, each once."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from conf.errors import UserError
from conf.templates import parse_template
from conf.vqa import QuestionsConfig
from pipeline.source.prompts import USUAL_LIMITS, NoPrompts, Prompt, PromptLimits, check_number, fill, prompt_of_item

QUESTION = "question"  # the field that stands for a question in the template


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
            questions = [line for line in lines if line and not line.startswith("#")]
            for question in questions:
                try:
                    parse_template(question)
                except ValueError as error:
                    raise UserError(f"questions.file {config.file!r}: {error}") from None
            ask += questions
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
        named = [name for text in (*self.ask, self.template) for name in parse_template(text).names]
        return tuple(dict.fromkeys(n for n in (*named, self.field) if n is not None and n != QUESTION))

    def prompts(self, fields: Mapping[str, Any], limits: PromptLimits = USUAL_LIMITS) -> list[Prompt]:
        """Return the prompts of one sample, each once; NoPrompts where it has none."""
        found = None if self.field is None else fields.get(self.field)
        items = found if isinstance(found, list) else [] if found is None else [found]
        if not items and not self.ask:
            raise NoPrompts(f"field {self.field!r} holds no question")
        check_number(len(self.ask) + len(items), limits)
        first: dict[str, Prompt] = {}
        for question in self.ask:
            asked = fill(question, fields, limits)
            if asked.error_type is None:
                asked = fill(self.template, {**fields, QUESTION: asked.text}, limits)
            first.setdefault(asked.text, asked)
        for item in items:
            assert self.field is not None
            asked = prompt_of_item(self.template, item, self.field, QUESTION, fields, limits)
            first.setdefault(asked.text, asked)
        return list(first.values())
