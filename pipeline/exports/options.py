"""What an export may be asked for, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.exports.rows import Published
from pipeline.source.plan import LeftOut


class Form(str, Enum):
    WEBDATASET = "webdataset"
    COCO = "coco"
    COCO_RESULTS = "coco-results"
    COCO_DETECTIONS = "coco-detections"
    VQA = "vqa"
    JSONL = "jsonl"
    CSV = "csv"
    IMAGEFOLDER = "imagefolder"
    TXT = "txt"


class Existing(str, Enum):
    """What becomes of a caption file that is there already."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    APPEND = "append"
    PREPEND = "prepend"


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """How a caption file is called and what is in it. Prefix, suffix and join are taken as they are."""

    extension: str = ".txt"
    existing: Existing = Existing.SKIP
    prefix: str = ""  # words in front of the captions of an image
    suffix: str = ""  # and behind them
    join: str = ", "  # between several captions of an image, and between them and what was there

    def piece(self, texts: Sequence[str]) -> str:
        """Return what is written for an image: one line. Nothing if the model said nothing."""
        lines = (" ".join(text.splitlines()).strip() for text in texts)
        said = self.join.join(line for line in lines if line)
        return f"{self.prefix}{said}{self.suffix}" if said else ""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; see `deed export --help`."""

    columns: tuple[str, ...] | None = None  # jsonl and csv: which, none: all
    id_column: str | None = None  # coco and vqa: the results column with the image's number
    question_id_column: str | None = None  # vqa
    suffix: str = "deed"  # webdataset: in front of txt and json in the members' names
    neutralise_formulas: bool = False  # csv: a ' in front of what a spreadsheet would run
    sidecars: SidecarOptions = SidecarOptions()  # txt


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export: result rows written, what could not be, by reason, and what else is worth saying."""

    rows: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    summary: str | None = None  # of exports that are not one file or folder


Export = Callable[[Published, Any, Options], Exported]  # (results, where to, options)
