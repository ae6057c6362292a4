"""A promise about early exit on one corpus, and the evidence for it: what `deed calibrate` writes, and what a run that
keeps it is audited by. Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from conf.section import Count, Section

FILE = "guarantee.json"  # in a checkpoint directory

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]
Method = Literal["learn_then_test", "betting", "conformal_risk_control"]
Loss = Literal["text_differs", "dissimilarity", "points_lost"]


class Corpus(Section):
    """What images were drawn from: the promise holds for these and for no others."""

    paths: tuple[str, ...] = Field(description="Paths of the source.")
    kind: str = Field(description="Kind of the source.")
    num_images: Count = Field(description="Images that the source listed.")
    fingerprint: str = Field(description="SHA-256 over the ids of all of them, in order.")


class Guarantee(Section):
    """The mean over all images of the corpus of a loss in [0, 1] is at most `risk`.

    With `level` (learn_then_test, betting): with at least this probability over the draw of the sample. Without
    (conformal_risk_control): in expectation over the draw.
    """

    format_version: Literal[1] = 1
    method: Method
    loss: Loss = Field(
        description="Of an image, the worst of its prompts. text_differs: 1 where the text is not that of full depth; "
        "dissimilarity: 1 - ROUGE-L of the two; points_lost: how much worse than full depth's it is by the labels."
    )
    risk: Level = Field(description="What is promised: an upper bound of the mean loss.")
    level: Level | None = Field(description="Probability with which the promise holds; none: in expectation.")
    sample_images: Count = Field(description="Images of the random sample that it was tested on.")
    observed: Share = Field(description="Mean loss on the sample.")
    bound: Share = Field(description="Upper bound of the mean loss that the method gives, at most `risk`.")
    exits: tuple[int, ...] = Field(description="Exits that may fire, ending with full depth.")
    thresholds: tuple[float, ...] = Field(description="One for each exit of the checkpoint but the last.")
    corpus: Corpus
    weights_sha256: str = Field(description="Of the weights that it was tested with.")
    seed: Annotated[int, Field(ge=0)] = Field(description="Of the sample.")
    date_utc: str = Field(description="When it was tested, ISO 8601.")
