"""What is known of a training run when it has ended: `training.json` beside the checkpoint's weights.

What nobody knows is None and is left out of the file. Shares are from 0 to 1, points from 0 to 100.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from conf.errors import UserError
from conf.json_file import read_object

RECORD_FILE = "training.json"


def _unless_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite_only(points: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in points.items() if math.isfinite(value)}


Measured = Annotated[float | None, BeforeValidator(_unless_nan)]
Points = Annotated[dict[str, float], AfterValidator(_finite_only)]  # by what they measure


class Facts(BaseModel):
    """Base of every part: frozen; what later versions add is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelFacts(Facts):
    """What the checkpoint is. Parameters that two parts share count once."""

    name: str
    family: str
    encoder: str
    decoder_layers: int
    width: int
    vocabulary: int
    exits: tuple[int, ...]
    parameters: int
    trained_parameters: int | None = None


class SourceFacts(Facts):
    """What it was made from. `retrained`: that checkpoint's full depth was no longer what its model directory had."""

    checkpoint: str
    weights_sha256: str
    base_model: str | None = None
    licence: str | None = None  # as model hubs write it; `other`: none that they list
    licence_name: str | None = None  # of another
    licence_link: str | None = None
    retrained: bool = False


class TargetFacts(Facts):
    """What was asked of an image, and where the answer came from: a field, a template of fields, or a run's texts."""

    prompt: str | None = None
    prompt_field: str | None = None  # it holds a list of prompts, each of which was asked
    field: str | None = None
    template: str | None = None
    run: str | None = None
    own_texts: bool | None = None  # the run's model was this very checkpoint
    full_depth: bool | None = None  # it ran at full depth


class LeftOutFacts(Facts):
    reason: str
    count: int


class DataFacts(Facts):
    """Rows are prompts of images. Validation chooses thresholds and when to stop; test is what is reported."""

    kind: str
    paths: tuple[str, ...]
    training_images: int
    validation_images: int
    test_images: int
    training_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    left_out: tuple[LeftOutFacts, ...] = ()
    targets: tuple[TargetFacts, ...] = ()


class TrainingFacts(Facts):
    """How it was trained. `rates` are the highest ones, by part."""

    mode: Literal["deep_supervision", "frozen"]
    steps: int
    planned_steps: int
    images_per_step: int
    precision: Literal["float32", "bfloat16"]
    seed: int
    rates: dict[str, float] = {}
    parts: Literal["decoder", "everything", "low_rank"] | None = None  # the following hold for mode=deep_supervision
    low_rank: int | None = None
    loss_weights: Literal["mean_plus_last", "mean", "index", "coefficient"] | None = None
    coefficient: float | None = None
    soft: float | None = None
    stop_head_gradient: bool | None = None
    layer_dropout: float | None = None
    ema: float | None = None
    gate_steps: int | None = None


class HardwareFacts(Facts):
    torch: str
    workers: int
    threads: int  # of torch, each worker's
    cpu: str | None = None
    gpu: str | None = None
    seconds: Measured = None  # of training, measuring not included

    @property
    def device(self) -> str | None:
        return self.gpu or self.cpu


class ExitFacts(Facts):
    """One exit, teacher-forced on the images to report on: what it says of every token of the targets."""

    layer: int
    right: Measured = None  # share that are the target's token
    agrees: Measured = None  # share that are what full depth says there
    loss: Measured = None  # cross-entropy, nats per token


class EarlyExitFacts(Facts):
    """Decoding the images to report on with early exit, against full depth; thresholds are one per exit but the last.

    Depths are in layers per token: where tokens left, and how deep their positions were computed in the end.
    """

    gate: str
    risk: float
    thresholds: tuple[float, ...]
    mean_depth: Measured = None
    computed_depth: Measured = None
    equal_outputs: Measured = None
    equal_tokens: Measured = None
    full: Points = {}
    early: Points = {}


class GuardFacts(Facts):
    """Full depth on the images to report on, before and after training."""

    before: Points
    after: Points
    lost: float  # points of the metric that lost most; negative: none lost
    allowed: float

    @property
    def marked(self) -> bool:
        return self.lost > self.allowed


class SavingFacts(Facts):
    """The decoder's time on this machine, with early exit and at full depth of the same engine."""

    device: str | None = None  # None: where it was trained
    slots: int
    single_early_ms: float  # a text, one sequence at a time
    single_full_ms: float
    early_per_s: float  # texts, all slots in use
    full_per_s: float


class TrainingRecord(Facts):
    """Everything that the model card says."""

    format_version: Literal[1] = 1
    model: ModelFacts
    source: SourceFacts
    data: DataFacts
    training: TrainingFacts
    hardware: HardwareFacts
    exits: tuple[ExitFacts, ...] = ()
    early: tuple[EarlyExitFacts, ...] = ()  # one for each gate
    guard: GuardFacts | None = None
    saving: SavingFacts | None = None

    @property
    def full_depth_moved(self) -> bool:
        """Whether full depth may say something else than the model directory that the checkpoint came from."""
        return self.source.retrained or self.training.mode != "frozen"

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainingRecord":
        """Raise ValueError where the text is no record."""
        return cls.model_validate_json(text)

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainingRecord | None":
        """Return the record of a checkpoint, None where it has none; UserError where it is damaged."""
        path = checkpoint / RECORD_FILE
        if (content := read_object(path)) is None:
            return None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{str(path)!r} is no record of a training run: {where}: {first['msg']}") from None
