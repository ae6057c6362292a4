"""Rows with what is right for them: what training, calibration and evaluation read. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from conf.schema import PreprocessConfig
from conf.section import Count, Section
from conf.source import PromptConfig, SourceConfig
from conf.templates import parse_template

USUAL_FIELDS = "auto"  # of a target: the names that published data sets use


class TargetConfig(Section):
    """What the model should say of a row; nothing given: what it says itself, at full depth."""

    field: str | None = Field(
        None,
        description="Field of a sample that holds what is right: a text, a list of texts, or objects with a text and, "
        "if they have one, the prompt they answer. auto: the names that published data sets use "
        "(pipeline/source/references.py).",
    )
    references: tuple[str, ...] = Field(
        (),
        description="Files that say what is right, as data sets publish them (pipeline/source/reference_files.py), one "
        "or two that belong together; images are found by their names or ids, and `field` is a field of their records. "
        "Where the prompt has {question} and samples do not, each of an image's questions in them is asked.",
    )
    template: str | None = Field(
        None, description="What is right as a text made of fields, written as source.prompt.template is."
    )
    run: str | None = Field(
        None,
        description="Output of a run of deed caption over the same source, whose texts are learned. None, and no "
        "labels: deed train makes that run itself, at full depth, in OUTPUT/targets (of the first of `tasks`: "
        "OUTPUT/targets-1, and so on).",
    )

    @property
    def has_labels(self) -> bool:
        """Whether the source says what is right."""
        return self.field is not None or self.template is not None or bool(self.references)

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, value: str | None) -> str | None:
        if value is not None:
            parse_template(value)
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> "TargetConfig":
        if sum(map(bool, (self.field or self.references, self.template, self.run))) > 1:
            raise ValueError("give one of field, template and run; references go with field alone")
        return self


class TaskConfig(Section):
    """One more thing that is asked of every image."""

    prompt: PromptConfig
    target: TargetConfig = TargetConfig()


class LoadingConfig(Section):
    """Reading and decoding in the background, so that the device does not wait."""

    threads: Count = Field(2, description="Threads that decode images. More where the share of waiting is high.")
    batches_ahead: Count = Field(4, description="Batches that are ready or under way before they are asked for.")
    shuffle_images: Count = Field(
        256,
        description="Images, as files, that are read together and mixed in memory, three times as many at most. More "
        "mixes better.",
    )


class RowsConfig(Section):
    """A source as deed caption reads it, and what is right for its rows."""

    source: SourceConfig = Field(description="Images and prompts; see conf/source.py.")
    preprocess: PreprocessConfig = PreprocessConfig()
    target: TargetConfig = TargetConfig()
    tasks: tuple[TaskConfig, ...] = Field(
        (), description="Further things asked of every image, each with a prompt and a target of its own."
    )
    max_images: Count = Field(
        100_000,
        description="Most images that are used: shards are taken until there are enough. Texts that deed train has a "
        "model write are written for those shards whole, once, and new images do not join them.",
    )
    shard_order: Literal["random", "listed"] = Field(
        "random", description="How shards are taken: in an order that depends on `seed`, or as they are listed."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Of the choice and the order of images.")

    @property
    def all_tasks(self) -> tuple[TaskConfig, ...]:
        """Return everything that is asked of an image, the source's own prompt first.

        Tasks that do not say where the words in an image are find them where that prompt does.
        """
        words = {"words_field": self.source.prompt.words_field}
        prompts = (t.prompt if t.prompt.words_field else t.prompt.model_copy(update=words) for t in self.tasks)
        further = (t.model_copy(update={"prompt": prompt}) for t, prompt in zip(self.tasks, prompts, strict=True))
        return TaskConfig(prompt=self.source.prompt, target=self.target), *further

    @property
    def kept_fields(self) -> tuple[str, ...]:
        """Return the fields of a sample, or of one of its prompts, that its rows keep."""
        return self.source.passthrough
