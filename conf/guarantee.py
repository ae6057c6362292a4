"""A promise about early exit on one corpus, and the evidence for it: what `deed calibrate` writes, and what a run that
keeps it is audited by. Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from conf.engine import GenerationConfig, Schedule
from conf.errors import UserError
from conf.json_file import read_json
from conf.section import Count, Section

FILE = "guarantee.json"  # in a checkpoint directory
DEFAULTS_ONLY = ("kv", "weights", "gate", "threshold_decay")  # of the engine: a guarantee is of their defaults
SCHEDULES = (Schedule.POOL, Schedule.INPLACE)  # that let every text leave by itself

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
    """The mean of a loss in [0, 1] is at most `risk`, over all images of the corpus that can be read, but for the few
    hundred that thresholds were made by.

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
    prompts: tuple[str, ...] = Field((), description="Templates of the prompts that every image was asked.")
    generation: GenerationConfig = Field(GenerationConfig(), description="What outputs were asked to look like.")
    weights_sha256: str = Field(description="Of the weights that it was tested with.")
    seed: Annotated[int, Field(ge=0)] = Field(description="Of the sample.")
    date_utc: str = Field(description="When it was tested, ISO 8601.")

    def matches(self, thresholds: Sequence[float] | None, weights_sha256: str) -> bool:
        """Return whether it is about a checkpoint with these thresholds and weights."""
        return thresholds is not None and self.thresholds == tuple(thresholds) and self.weights_sha256 == weights_sha256


def read_guarantee(path: str | Path) -> Guarantee | None:
    """Return what a file, or the one in a checkpoint directory, promises; None where there is none.

    UserError where it cannot be understood.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        return None
    try:
        return Guarantee.model_validate(read_json(file, "guarantee"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"guarantee {str(file)!r} is not valid: {where}: {first['msg']}") from None


def write_guarantee(guarantee: Guarantee, path: str | Path) -> Path:
    """Write it into a checkpoint directory, or as a file of another name; return the file's path."""
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(guarantee.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return file
