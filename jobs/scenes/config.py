"""Parameters of the scenes corpus: what is drawn, how often, and how it is sharded."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ScenesConfig(Section):
    """One split of the corpus. Scene `index` of a split depends on `seed`, `split` and the drawing fields only."""

    out: str = Field("data/scenes", description="Folder; shards go to OUT/<split>/scenes-<split>-000000.tar.")
    split: Literal["train", "val", "test"] = Field("test", description="Splits never share a pair of object kinds.")
    num_images: Annotated[int, Field(ge=1)] = Field(512, description="Scenes written; their indices start at 0.")
    images_per_shard: Annotated[int, Field(ge=1)] = Field(128, description="Scenes per tar file.")
    image_size: Annotated[int, Field(ge=64, le=1024)] = Field(
        128, description="Width and height in pixels; everything drawn scales with it."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Another seed is another corpus.")
    num_workers: Annotated[int, Field(ge=1)] = Field(1, description="Processes; each writes whole shards.")
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = Field(
        90, description="Higher is closer to the drawing, and larger."
    )
    kinds: Literal[25, 36, 49, 64, 81, 100, 300] = Field(
        300, description="Kinds of objects, the same ones in every split; fewer make an easier corpus."
    )
    max_objects: Annotated[int, Field(ge=1, le=5)] = Field(
        5, description="Most objects in a scene; their numbers keep their proportions."
    )
    repeat_share: Share = Field(0.3, description="Share of the scenes in which one kind appears more than once.")
    sign_share: Share = Field(0.4, description="Share of the scenes with a printed word, code or number.")
    sum_share: Share = Field(0.2, description="Share of the scenes with two number plates; never together with a sign.")
    card_share: Share = Field(0.5, description="Share of the objects that lie on a coloured card.")
    questions: Annotated[int, Field(ge=1)] = Field(
        14, description="Questions per image, where the scene has that many."
    )

    @model_validator(mode="after")
    def _leaves_kinds_that_are_absent(self) -> "ScenesConfig":
        if self.kinds == 25 and self.max_objects == 5:
            raise ValueError(
                "of 25 kinds no fifth one may be absent from a scene with five: lower max_objects or raise kinds"
            )
        return self
