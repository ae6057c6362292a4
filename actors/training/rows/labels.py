"""What is right for the rows of each task, from the fields of a sample or from files that data sets publish."""

from collections.abc import Mapping, Sequence
from typing import Any

from conf.rows import USUAL_FIELDS, RowsConfig, TaskConfig
from conf.source import PromptConfig, SourceConfig, SourceKind
from conf.templates import parse_template
from pipeline.source.plan import LeftOut, sum_left_out
from pipeline.source.prompts import USUAL_LIMITS, fill
from pipeline.source.readers import RawSample, field_names
from pipeline.source.reference_files import ReferenceFile, identity_fields, image_names, read_references
from pipeline.source.references import (
    AskedReference,
    Kind,
    Reference,
    reference_fields,
    reference_for,
    reference_of,
)
from pipeline.text import storable

_QUESTION = "question"
_QUESTIONS = "questions of the references"  # a name that no sample's field has
_NAMED_BY_KEY = (SourceKind.WEBDATASET, SourceKind.IMAGES)
_MOST_EXAMPLES = 3


class Labels:
    """The references of all tasks. UserError for a file of references that cannot be understood."""

    def __init__(self, config: RowsConfig) -> None:
        self.source, self.tasks = config.source, config.all_tasks
        files: dict[tuple[tuple[str, ...], str | None], ReferenceFile] = {}
        for target in (task.target for task in self.tasks):
            given = target.references, _field_of(target.field)
            if target.references and given not in files:
                files[given] = read_references(*given)
        self._files = [files.get((task.target.references, _field_of(task.target.field))) for task in self.tasks]
        self.left_out: tuple[LeftOut, ...] = sum_left_out([part for file in files.values() for part in file.left_out])
        self._known_images = 0
        self._unknown: list[str] = []

    def in_file(self, task: int, raw: RawSample) -> Sequence[AskedReference]:
        """Return what the file of a task says of an image; nothing where it has none."""
        file = self._files[task]
        if file is None:
            return ()
        names: list[str | int] = image_names(raw.fields)
        uri = raw.fields.get(self.source.uri_column)
        names += [uri] if isinstance(uri, str) else []
        names += [raw.sample.key] if self.source.kind in _NAMED_BY_KEY else []
        found = file.find(names)
        self._known_images += bool(found)
        if not found and len(self._unknown) < _MOST_EXAMPLES:
            self._unknown += map(str, names[:1])
        return found

    def asked(
        self, task: int, fields: Mapping[str, Any], known: Sequence[AskedReference]
    ) -> tuple[PromptConfig, Mapping[str, Any]]:
        """Return how prompts are made, and of which fields: questions that only a file of references has are asked one
        by one, where the template names them."""
        prompt = self.tasks[task].prompt
        questions = [{_QUESTION: asked} for asked in dict.fromkeys(asked for asked, _ in known) if asked is not None]
        if not questions or _QUESTION in fields or not _asks_questions(self.tasks[task]):
            return prompt, fields
        return prompt.model_copy(update={"list_field": _QUESTIONS}), {**fields, _QUESTIONS: questions}

    def reference(
        self, task: int, fields: Mapping[str, Any], prompt: str, known: Sequence[AskedReference]
    ) -> Reference | None:
        """Return what is right for a prompt by the task's target; None where it has no labels."""
        target = self.tasks[task].target
        if not target.has_labels:
            return None
        if target.template is not None:
            filled = fill(target.template, fields, USUAL_LIMITS)
            return None if filled.error_type is not None else Reference(Kind.CAPTION, (storable(filled.text),))
        if self._files[task] is not None:
            return reference_for(known, prompt)
        return reference_of(fields, prompt, _field_of(target.field))

    def raise_if_unknown(self) -> None:
        """Raise UserError where a file knows none of the images that were read."""
        file = next((file for file in self._files if file is not None), None)
        if file is not None and self._unknown and not self._known_images:
            raise file.none_found(self._unknown)


def source_with_fields(config: RowsConfig) -> SourceConfig:
    """Return the source with all fields that prompts and targets need."""
    names: list[str] = list(config.kept_fields)
    for task in config.all_tasks:
        names += field_names(config.source.model_copy(update={"prompt": task.prompt}))
        if task.target.template is not None:
            names += parse_template(task.target.template).names
        elif task.target.references:
            names += [name for name in identity_fields if name != config.source.image_column]
        elif (field := _field_of(task.target.field)) is not None:
            names.append(field.partition(".")[0])
        elif task.target.has_labels:
            names += reference_fields
    return config.source.model_copy(update={"passthrough": tuple(dict.fromkeys(names))})


def _field_of(field: str | None) -> str | None:
    return None if field == USUAL_FIELDS else field


def _asks_questions(task: TaskConfig) -> bool:
    return task.prompt.list_field is None and _QUESTION in parse_template(task.prompt.template).names
