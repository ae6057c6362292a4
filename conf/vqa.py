"""Frozen configuration of `deed vqa`: a job, and the questions asked of every image."""

from typing import Annotated

from pydantic import Field, model_validator

from conf.engine import Schedule
from conf.schema import JobConfig
from conf.section import Section
from conf.source import PromptConfig, SourceKind
from conf.templates import parse_template


class QuestionsConfig(Section):
    """What is asked; questions of all three kinds are put together, each once per image."""

    ask: tuple[str, ...] = Field((), description="Asked of every image; `{column}` is replaced by that field.")
    file: str | None = Field(
        None, description="Path or URL of a text file, one question a line; empty lines and lines with # are left out."
    )
    field: str | None = Field(
        None, description="Sample field that holds a question, a list of them, or a list of objects with `question`."
    )
    template: str = Field("{question}", description="What becomes of each question before the model reads it.")

    @model_validator(mode="after")
    def _asks_something(self) -> "QuestionsConfig":
        if not self.ask and self.file is None and self.field is None:
            raise ValueError("give questions by ask, file or field")
        for text in (*self.ask, self.template):
            parse_template(text)
        if "question" not in parse_template(self.template).names:
            raise ValueError(f"template must contain {{question}}, got {self.template!r}")
        return self


class VqaConfig(JobConfig):
    """Scheduled question answering: every run answers what no earlier run under output.path has answered."""

    questions: QuestionsConfig
    relabel_below: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Answers whose least certain token (min_confidence) is below this are given again, once, at full "
        "depth, and replaced. Higher: more of them, at full depth's cost. none: no answer is given twice.",
    )

    @model_validator(mode="after")
    def _only_questions(self) -> "VqaConfig":
        if self.source.prompt != PromptConfig():
            raise ValueError("deed vqa takes its questions from `questions`, not from source.prompt")
        if self.source.kind is SourceKind.MANIFEST:
            raise ValueError("deed vqa reads webdataset, parquet and images; a manifest's rows have no lasting names")
        if self.relabel_below is not None and self.engine.schedule is Schedule.FULL:
            raise ValueError("relabel_below is for early exits, and engine.schedule=full has none")
        if self.output.on_existing != "resume":
            raise ValueError("deed vqa only adds to its output: leave output.on_existing=resume")
        return self
